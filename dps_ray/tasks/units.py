"""Units of an answer, which do not count: `5 \\text{ cm}`, `20 miles` and `441\\text{ pounds}` are numbers.

A unit stands after a value and at the end of an answer or of a part of it. Variables are none: math-verify's own list
takes `3t`, `3h` and `3` for one answer, and `2\\text{i}+3\\text{j}` for 2, so it is off (`dps_ray.tasks.equality`).

Everything here takes time in proportion to the text.
"""

import re
from typing import NamedTuple

_SQUARE_OR_CUBIC = r"(?:sq(?:uare|\.)?\s*|cu(?:bic|\.)?\s*)?"
_PREFIX = "(?:milli|centi|deci|kilo)?"
_AT_END = re.compile(
    rf"(?<=[\d}})])\s*{_SQUARE_OR_CUBIC}"
    rf"(?:{_PREFIX}(?:met(?:er|re)|gram|lit(?:er|re)|watt|joule|newton|volt)s?"
    r"|mm|cm|dm|km|kg|mg|in|ft|yd|mi|lbs?|oz|mph|inch(?:es)?|feet|foot|yards?|miles?|acres?|gallons?|pounds?|ounces?"
    r"|units?|degrees?|radians?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|ways?|people"
    r"|students?)(?:\^\{?[23]\}?)?$"
)
_LETTER = re.compile(r"([+-]?\d[\d.,]*)\s*[mgshLNJVW]")
_NUMBER = re.compile(r"[+-]?\d[\d.,]*")

# Several in a row are one unit: \text{ kcal m}^{-2} \text{yr}^{-1}
_GROUPS = re.compile(
    r"(?:\\(?:text[a-z]*|mbox|math(?:rm|sf|it|bf))\s*\{[^{}]*\}(?:\s*\^(?:\{[^{}]*\}|\d))?(?:\\ |[\s~])*)+"
)
_GROUP = re.compile(r"\\[a-z]+\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z./~ -]*")
_JOINING = {"and", "or", "a.m", "p.m", "am", "pm"}  # a.m. is no unit: it is not p.m.
_VALUE = re.compile(r"(?:[\d})\]|!%]|\\(?:pi|circ|infty)|(?<![A-Za-z\\])[A-Za-z])$")
_LONGEST_VALUE = 8  # characters of which `_VALUE` looks at the last
_END_OF_PART = re.compile(r"$|[,;)\]]|\\\}|\\(?:text|mbox)[a-z]*\s*\{\s*(?:and|or)\b")


class _Unit(NamedTuple):
    name: str
    start: int  # with the spaces before it
    end: int


def without_units(text: str) -> str:
    """The text without its unit, if it has a single one; `3 \\text{ ft } 5 \\text{ in}` is a sum of two."""
    text = _AT_END.sub("", text).rstrip()
    units = list(_units(text))
    several = len({unit.name for unit in units}) > 1
    parts, done = [], 0
    for unit in units:
        parts.append(text[done : unit.start])
        done = unit.end
        if unit.name == "percent":
            parts.append(r"\%")
        elif several or not _END_OF_PART.match(text, unit.end):
            digit_follows = text[unit.end : unit.end + 1].isdigit()
            parts.append(text[unit.start : unit.end] + "+" * (several and digit_follows))
    return "".join(parts) + text[done:]


def without_letter(truth: str, answer: str) -> str:
    """The answer without a unit of one letter, as in `5 m`, if the reference is a number, so has no variable m."""
    number = _LETTER.fullmatch(answer)
    return number.group(1) if number and _NUMBER.fullmatch(truth) else answer


def _units(text: str) -> list[_Unit]:
    found = []
    for groups in _GROUPS.finditer(text):
        words = [content.strip(" ~.,;") for content in _GROUP.findall(groups.group())]
        start = groups.start()
        while start > 0 and (
            text[start - 1] in " \t\n~" or text[start - 1 : start + 1] in ("\\ ", "\\~")
        ):
            start -= 1
        before = text[max(0, start - _LONGEST_VALUE) : start]
        if (
            all(map(_WORDS.fullmatch, words))
            and not _JOINING.intersection(words)
            and _VALUE.search(before)
        ):
            found.append(_Unit(groups.group().strip().casefold(), start, groups.end()))
    return found
