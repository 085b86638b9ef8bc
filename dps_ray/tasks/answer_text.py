"""Comparison of answers as text, without mathematics: equal to the reference, certainly different, or undecided.

All functions take time proportional to the text's length, and their results depend on the two texts alone.
"""

import re
from typing import NamedTuple

from dps_ray.tasks.notation import latex
from dps_ray.tasks.units import without_units

_DOLLARS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")
_STYLE = re.compile(r"(?<!\\)\\(?:(?:displaystyle|limits|left|right)(?![a-zA-Z])|!\s*|[,;:])")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,4})(?!\w)")
_MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[ ~]\d{3})+(?:\.\d+)?")  # 10 000
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # except between digits: 1 1/2 is not 11/2
_WHOLE = re.compile(r"[+-]?\d+")
_BASE = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|rm)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ ,.'’-])*")
_BETWEEN = re.compile(r"[\s,.'’-]+")
_LONG_WORD = re.compile(r"[^\W\d_]{4}")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[).]?")


def plain(text: str) -> str:
    """The answer in LaTeX, without units and without markup that changes only its appearance."""
    text = latex(_DOLLARS.sub("", text).strip()).strip().rstrip(".").rstrip()
    text = _FRACTION.sub(r"\\frac", _STYLE.sub("", text))
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = without_units(_MEMBER.sub("", text, count=1)).strip()
    return re.sub("[ ~]", "", text) if _THOUSANDS.fullmatch(text) else text


def decide(truth: str, answer: str) -> bool | None:
    """Whether two results of `plain` are the same answer; None if deciding that takes mathematics."""
    if _SPACE.sub("", truth) == _SPACE.sub("", answer):
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
    """A whole number without plus sign and leading zeros, as text, because int() refuses very long numbers."""
    sign, digits = "-" * number.startswith("-"), number.lstrip("+-").lstrip("0")
    return sign + digits if digits else "0"


class Words(NamedTuple):
    """An answer in words, or a choice such as `(C)`."""

    text: str | None  # the text to compare; None for a formula
    certain: bool  # whether it certainly is not a product of variables

    @staticmethod
    def of(text: str) -> "Words":
        """Classifies an answer. Letters count as words if TeX marks them as text, if they are in brackets, or if four
        are adjacent; SymPy would read `east` as e·a·s·t, which equals `seat`. Words are compared without regard to
        case, but the case of a single letter counts, because it may be a variable.
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
# Operations that SymPy would evaluate, however long that takes.
_UNDONE = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|Gamma|zeta|nabla|partial|bigcup|bigcap)(?![a-zA-Z])"
)
_CHOICES = re.compile(r"\\(?:cup|cap|setminus|pm|mp)(?![a-zA-Z])|[∪∩±]")
_OPERATIONS = re.compile(
    r"\\(?:times|cdot|sqrt|log|ln|(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?)(?![a-zA-Z])|[*^!]|binom|choose"
)
_BINOMIAL = re.compile(r"binom|choose")


class Size(NamedTuple):
    """Measures of an answer's text."""

    characters: int
    depth: int  # nesting depth of brackets of any kind
    digits: int  # of the longest number
    chosen: int  # `digits` if there is a binomial, which math-verify evaluates while it parses; otherwise 0
    undone: int  # number of sums, integrals, limits
    choices: int  # number of unions, plus-or-minus signs: two cases each
    operations: int  # number of powers, roots, functions

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
        """Whether each measure is at most that of `USUAL` or twice the reference's, whichever is larger."""
        return all(
            own <= max(usual, 2 * reference)
            for own, usual, reference in zip(self, USUAL, truth, strict=True)
        )


# The largest values among the 9,000 answers of MATH, AIME, AMC, Minerva and OlympiadBench: 176 characters, depth 4,
# 9 digits, 4 choices, 7 operations. SymPy takes 3 s for 6 unions of intervals with letters, and 40 s for 8.
USUAL = Size(characters=400, depth=8, digits=50, chosen=4, undone=0, choices=6, operations=40)
