"""Mathematics: is the answer of a response the same as the reference?

    response ── final_answer ──> answer ── in plain LaTeX, without its unit
                                   │ the same text, two numbers, two words ──> right or wrong
                                   │ too large to be the reference ──> wrong
                                   └ anything else ── math-verify, in a process that can be killed

`\\frac{1}{2}`, `1/2` and `0.5` are one answer, and so are `(-\\infty, 2]` and `x \\le 2`. math-verify finds that out
with an ANTLR grammar and SymPy, which some texts keep busy for ever or until memory runs out; SIGALRM, by which
it limits itself, does not end that everywhere, and works in a main thread only.

So both texts are first written in one notation (`dps_ray.tasks.notation`, `dps_ray.tasks.units`) and compared as
texts, which decides most right answers. Then what cannot be that answer is wrong without a closer look: more
characters, deeper brackets or longer numbers than it can have, or an operation left undone, as in
`\\sum_{n=1}^{10^9}` (`dps_ray.tasks.answer_text`). These rules depend on the two texts alone. The rest has limits
on time, processor time and memory. Whether an answer that reaches one is right is not known: that is a
`ResponseError`, and not a wrong answer.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from dps_ray.errors import RewardError
from dps_ray.tasks import confinement
from dps_ray.tasks.answer_text import decide, plain
from dps_ray.tasks.final_answer import final_answer
from dps_ray.tasks.units import without_letter


def score(response: str, truth: Any) -> dict[str, float]:
    """1 when the answer of a response equals the reference, else 0; `score` and `acc` are the same.

    Args:
        truth: LaTeX with or without dollar signs, a number, or a list of such of which any will do, also as JSON.

    Raises:
        RewardError: `truth` is none of these.
        ResponseError: the comparison reached its limits.
    """
    accuracy = float(is_right(final_answer(response), references(truth)))
    return {"score": accuracy, "acc": accuracy}


def is_right(answer: str | None, truths: list[str], numeric: bool = False) -> bool:
    """Whether an answer equals any of the references.

    Args:
        numeric: allow for rounded numbers, see `dps_ray.tasks.equality`.

    Raises:
        ResponseError: the comparison reached its limits.
    """
    confinement.load()  # with the first call, and not with the first that needs it: see `dps_ray.rewards.sandbox`
    if answer is None:
        return False
    answer = plain(answer)
    open_to_doubt = []
    for truth in map(plain, truths):
        number = without_letter(truth, answer)
        same = decide(truth, number)
        if same:
            return True
        if same is None:
            open_to_doubt.append((truth, number))
    return any(confinement.equal(truth, number, numeric) for truth, number in open_to_doubt)


def references(truth: Any) -> list[str]:
    """The texts that a ground truth allows.

    Raises:
        RewardError: it holds none.
    """
    if isinstance(truth, str) and truth.lstrip().startswith('["'):
        with suppress(ValueError):  # LaTeX may begin so, too
            truth = json.loads(truth)
    many = truth if isinstance(truth, Iterable) and not isinstance(truth, str) else [truth]
    texts = [_text(each) for each in many]
    if not texts or not all(texts):
        raise RewardError(
            f"mathematics needs a ground truth such as '\\\\frac{{1}}{{2}}', 0.5, or a list of these, not {truth!r}"
        )
    return texts


def _text(truth: Any) -> str:
    """Empty for what is no reference."""
    if isinstance(truth, bool) or truth is None:
        return ""
    return truth.strip() if isinstance(truth, str) else str(truth)
