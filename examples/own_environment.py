r"""An environment of one's own, for the built-in arithmetic: a chain may be tried again, after a hint how much of
it was right.

    python -m pipelines.grpo_dps --config arithmetic environment.path=examples/own_environment.py:SecondTry \
        environment.max_turns=2 rollout.max_response_length=116 folder=runs/second_try
"""


class SecondTry:
    def __init__(self, worth=0.5):
        self.worth = worth  # the score of a chain that is right at the second try

    def reset(self, prompt):
        self.steps = prompt.ground_truth.rstrip(";").split(",")
        self.tries = 0
        return prompt.messages

    def step(self, response):
        self.tries += 1
        given = response.rstrip(";").split(",")
        if given == self.steps:
            return None, {"score": 1.0 if self.tries == 1 else self.worth, "acc": 1.0}
        if self.tries == 2:
            return None, {"score": 0.0, "acc": 0.0}
        right = sum(a == b for a, b in zip(given, self.steps, strict=False))
        return f"?{right};", {"score": 0.0, "acc": 0.0}
