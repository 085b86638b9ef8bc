"""A reward of one's own, for the built-in arithmetic: the share of a chain's steps that are right."""


def reward(solution_str, ground_truth, **others):
    wanted, given = (text.rstrip(";").split(",") for text in (ground_truth, solution_str))
    right = sum(step == answer for step, answer in zip(wanted, given, strict=False))
    return {"score": right / len(wanted), "acc": float(solution_str == ground_truth)}
