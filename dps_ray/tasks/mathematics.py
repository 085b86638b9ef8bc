"""Mathematics: whether a response's answer equals the reference.

    response ── final_answer ──> answer ── in plain LaTeX, without its unit
                                   │ the same text, two numbers, two words ──> right or wrong
                                   │ too large to be the reference ──> wrong
                                   └ anything else ── math-verify, in a process that can be killed

`\\frac{1}{2}`, `1/2` and `0.5` are equal answers, and so are `(-\\infty, 2]` and `x \\le 2`. math-verify decides this
with an ANTLR grammar and SymPy, which for some texts never finish or use up all memory. math-verify limits itself with
SIGALRM, but that works in the main thread only and does not interrupt every computation.

Therefore both texts are first converted to one notation (`dps_ray.tasks.notation`, `dps_ray.tasks.units`) and compared
as text, which decides most right answers. Next, answers that cannot equal the reference are wrong without further
work: they have more characters, deeper brackets or longer numbers than it allows, or an operation that is not
evaluated, as in `\\sum_{n=1}^{10^9}` (`dps_ray.tasks.answer_text`). These rules depend on the two texts alone. All
other comparisons run with limits on time, processor time and memory. If one reaches a limit, it is unknown whether
the answer is right: that raises a `ResponseError` and does not count as a wrong answer.
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
    """Scores 1 if the response's answer equals the reference, otherwise 0; `score` and `acc` are equal.

    Args:
        truth: LaTeX with or without dollar signs, a number, or a list of these, also as JSON; any entry of a list counts
            as right.

    Raises:
        RewardError: `truth` is none of these.
        ResponseError: the comparison reached its limits.
    """
    accuracy = float(is_right(final_answer(response), references(truth)))
    return {"score": accuracy, "acc": accuracy}


def is_right(answer: str | None, truths: list[str], numeric: bool = False) -> bool:
    """Whether an answer equals one of the references.

    Args:
        numeric: whether rounded numbers count as equal, see `dps_ray.tasks.equality`.

    Raises:
        ResponseError: the comparison reached its limits.
    """
    confinement.load()  # already at the first call, before a comparison needs it: see `dps_ray.rewards.sandbox`
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
    """The texts of the answers that a ground truth accepts.

    Raises:
        RewardError: the ground truth has no answer, or an empty one.
    """
    if isinstance(truth, str) and truth.lstrip().startswith('["'):
        with suppress(ValueError):  # LaTeX may also begin like this
            truth = json.loads(truth)
    many = truth if isinstance(truth, Iterable) and not isinstance(truth, str) else [truth]
    texts = [_text(each) for each in many]
    if not texts or not all(texts):
        raise RewardError(
            f"mathematics needs a ground truth such as '\\\\frac{{1}}{{2}}', 0.5, or a list of these, not {truth!r}"
        )
    return texts


def _text(truth: Any) -> str:
    """The text of one reference; empty if it is not a valid reference."""
    if isinstance(truth, bool) or truth is None:
        return ""
    return truth.strip() if isinstance(truth, str) else str(truth)
