"""Removes units from answers: `5 \\text{ cm}`, `20 miles` and `441\\text{ pounds}` become numbers.

A unit follows a value, at the end of an answer or of a part of it. Variables are not units. math-verify's own list of
units is disabled (`dps_ray.tasks.equality`), because with it `3t`, `3h` and `3` are equal, and
`2\\text{i}+3\\text{j}` equals 2.

All functions take time proportional to the text's length.
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

# Several adjacent groups form one unit: \text{ kcal m}^{-2} \text{yr}^{-1}
_GROUPS = re.compile(
    r"(?:\\(?:text[a-z]*|mbox|math(?:rm|sf|it|bf))\s*\{[^{}]*\}(?:\s*\^(?:\{[^{}]*\}|\d))?(?:\\ |[\s~])*)+"
)
_GROUP = re.compile(r"\\[a-z]+\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z./~ -]*")
_MEANING = re.compile(  # words that carry meaning: 5 million is not 5, a.m. is not p.m., "if n is odd"
    r"(?:and|or|not?|is|are|has|have|does|if|when|where|with|for|unless|otherwise|divides|mod|choose"
    r"|squared|cubed|half|halves|thirds|fourths|fifths|dozen|hundred|thousand|(?:m|b|tr)illion|a\.?m|p\.?m)(?![a-z])",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(?:[\d})\]|!%]|\\(?:pi|circ|infty)|[\d})\s][a-zA-Z])$")
_LONGEST_VALUE = 8  # number of characters before the unit that `_VALUE` is matched against
_END_OF_PART = re.compile(r"$|[,;)\]]|\\\}|\\(?:text|mbox)[a-z]*\s*\{\s*(?:and|or)\b")


class _Unit(NamedTuple):
    name: str
    start: int  # including the spaces before it
    end: int


def without_units(text: str) -> str:
    """The text without its unit, if all its units are the same. `3 \\text{ ft } 5 \\text{ in}` has two units: it becomes
    a sum and keeps both."""
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
    """The answer without a one-letter unit, as in `5 m`, if the reference is a number and so has no variable m."""
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
            and not any(map(_MEANING.match, words))
            and _VALUE.search(before)
        ):
            found.append(_Unit(groups.group().strip().casefold(), start, groups.end()))
    return found
