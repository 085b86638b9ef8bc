"""Mathematics: is the answer of a response the same as the reference?

    response ── final_answer ──> answer ── the same text, two numbers, two words ──> right or wrong
                                   │ too large to be the reference ──> wrong
                                   └ anything else ── math-verify, in a process that can be killed

`\\frac{1}{2}`, `1/2` and `0.5` are one answer, and so are `(-\\infty, 2]` and `x \\le 2`. math-verify finds that out
with an ANTLR grammar and SymPy, which some texts keep busy for ever or until memory runs out; SIGALRM, by which
it limits itself, does not end that everywhere, and works in a main thread only.

So an answer is first held against the reference as text, which decides most right ones. Then what cannot be
that answer is wrong without a closer look: more characters, deeper brackets or longer numbers than `Size` allows,
or an operation left undone, as in `\\sum_{n=1}^{10^9}`. These rules depend on the two texts alone. The rest has a limit on
time, processor time and memory, and one that reaches it is no wrong answer but a `ResponseError`.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from dps_ray.errors import RewardError
from dps_ray.tasks import confinement
from dps_ray.tasks.final_answer import final_answer

WRONG, RIGHT = {"score": 0.0, "acc": 0.0}, {"score": 1.0, "acc": 1.0}


def score(response: str, truth: Any) -> dict[str, float]:
    """1 when the answer of a response equals the reference, else 0; `score` and `acc` are the same.

    Args:
        truth: LaTeX with or without dollar signs, a number, or a list of such of which any will do, also as JSON.

    Raises:
        RewardError: `truth` is none of these.
        ResponseError: the comparison reached its limits.
    """
    return RIGHT if is_right(final_answer(response), references(truth)) else WRONG


def is_right(answer: str | None, truths: list[str], numeric: bool = False) -> bool:
    """Whether an answer equals any of the references.

    Args:
        numeric: allow for rounded numbers, see `dps_ray.tasks.equality`.

    Raises:
        ResponseError: the comparison reached its limits.
    """
    if answer is None:
        return False
    answer = plain(answer)
    open_to_doubt = []
    for truth in map(plain, truths):
        same = decide(truth, answer, numeric)
        if same:
            return True
        if same is None:
            open_to_doubt.append(truth)
    return any(confinement.equal(truth, answer, numeric) for truth in open_to_doubt)


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


# --- as text --------------------------------------------------------------------------------------

_DOLLARS = re.compile(r"(?<!\\)\$|\\[()]|\\\[|\\\]")
_STYLE = re.compile(
    r"\\(?:displaystyle|limits)(?![a-zA-Z])|\\!\s*|\\[,;:]|\\(?:left|right)(?![a-zA-Z])"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,4})(?!\w)")
_MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])")
_UNIT_AT_END = re.compile(
    r"(?<=[\d})])\s*(?:sq(?:uare|\.)?\s*|cu(?:bic|\.)?\s*)?"
    r"(?:mm|cm|dm|km|in|ft|yd|mi|inch(?:es)?|feet|foot|yards?|met(?:er|re)s?|miles?|units?)(?:\^\{?[23]\}?)?$"
)
_WHOLE = re.compile(r"[+-]?\d+")
_BASE = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|rm)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ ,.'’-])*")
_BETWEEN = re.compile(r"[\s,.'’-]+")
_LONG_WORD = re.compile(r"[^\W\d_]{4}")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[).]?")


def plain(text: str) -> str:
    """Without what changes how an answer looks and not what it is, and without plain units: math-verify takes
    \\text{cm}^2 away, but reads cm^2 as c·m^2."""
    text = _DOLLARS.sub("", text).strip().rstrip(".").rstrip()
    text = _FRACTION.sub(r"\\frac", _STYLE.sub("", text)).replace("°", r"^\circ")
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    return _UNIT_AT_END.sub("", _MEMBER.sub("", text, count=1)).strip()


def decide(truth: str, answer: str, numeric: bool) -> bool | None:
    """Whether two plain texts are the same answer; None when that takes mathematics."""
    if "".join(truth.split()) == "".join(answer.split()):
        return True
    if _WHOLE.fullmatch(truth) and _WHOLE.fullmatch(answer):
        return _digits(truth) == _digits(answer)
    bases = _BASE.fullmatch(truth), _BASE.fullmatch(answer)
    if bases[0] and bases[1]:  # math-verify reads 52_8 as 52
        return all(
            _digits(a) == _digits(b)
            for a, b in zip(bases[0].groups(), bases[1].groups(), strict=True)
        )
    words = Words.of(truth), Words.of(answer)
    if any(each.certain for each in words):
        return words[0].text == words[1].text
    if not Size.of(answer).fits(Size.of(truth)):
        return False
    return None


def _digits(number: str) -> str:
    """A whole number without plus sign and leading zeros. Its digits may be more than int() takes."""
    sign, digits = "-" * number.startswith("-"), number.lstrip("+-").lstrip("0")
    return sign + digits if digits else "0"


class Words(NamedTuple):
    """An answer in words, or a choice, such as `(C)`."""

    text: str | None  # to be compared; None for a formula
    certain: bool  # that it is no product of variables

    @staticmethod
    def of(text: str) -> "Words":
        """Letters alone are words when TeX marks them as text, in brackets, or when four stand together: SymPy
        takes `east` for e·a·s·t, and so for `seat`. Case counts for a single letter, which may be a variable.
        """
        bare = _TEXT.sub(r"\1", text).strip()
        letter = _LETTER.fullmatch(bare)
        if letter:
            return Words(letter.group(1), bare != text or len(bare) > 1)
        if not _WORDS.fullmatch(bare):
            return Words(None, False)
        words = " ".join(filter(None, _BETWEEN.split(bare))).casefold()
        return Words(words, bare != text or _LONG_WORD.search(bare) is not None)


# --- size -----------------------------------------------------------------------------------------

_BRACKET = re.compile(r"[\[({]|([])}])")
_NUMBER = re.compile(r"\d+")
# What is still to be worked out. SymPy would try, for as long as it takes.
_UNDONE = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|Gamma|zeta|nabla|partial|bigcup|bigcap)(?![a-zA-Z])"
)
_CHOICES = re.compile(r"\\(?:cup|cap|setminus|pm|mp)(?![a-zA-Z])|[∪∩±]")
_OPERATIONS = re.compile(
    r"\\(?:times|cdot|sqrt|log|ln|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?)(?![a-zA-Z])|[*^!]|binom|choose"
)
_BINOMIAL = re.compile(r"binom|choose")


class Size(NamedTuple):
    """How large an answer is as text."""

    characters: int
    depth: int  # of brackets of any kind
    digits: int  # of the longest number
    chosen: int  # the same beside a binomial, which math-verify works out while it parses
    undone: int  # sums, integrals, limits
    choices: int  # unions, plus or minus: two cases each
    operations: int  # powers, roots, functions

    @staticmethod
    def of(text: str) -> "Size":
        depth = deepest = 0
        for bracket in _BRACKET.finditer(text):
            depth += -1 if bracket.group(1) else 1
            deepest = max(deepest, depth)
        digits = max(map(len, _NUMBER.findall(text)), default=0)
        return Size(
            len(text),
            deepest,
            digits,
            digits if _BINOMIAL.search(text) else 0,
            len(_UNDONE.findall(text)),
            len(_CHOICES.findall(text)),
            len(_OPERATIONS.findall(text)),
        )

    def fits(self, truth: "Size") -> bool:
        """Whether it is at most twice the reference's, or twice that of the largest of MATH, AIME, AMC,
        Minerva and OlympiadBench together, where that is more."""
        return all(
            own <= max(usual, 2 * reference)
            for own, usual, reference in zip(self, USUAL, truth, strict=True)
        )


USUAL = Size(characters=400, depth=8, digits=50, chosen=4, undone=0, choices=6, operations=40)
