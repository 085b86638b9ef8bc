"""Where a response to a mathematical problem says what its answer is.

    ... so the area is \\boxed{\\frac{1}{2}}.          \\frac{1}{2}

The last `\\boxed{...}` counts, as in the published graders; without one, the last `<answer>...</answer>`, and
without that what follows the last "answer is" or "answer:", in the same line, the next one, or a display. These are
searches for fixed words and one walk over the braces, so any text takes no more time than to read it once.
"""

import re

LONGEST = 2_000  # characters; what is longer is no answer

# "The answer is", "Answer:", or a line of its own: "## Final answer"
_PHRASE = re.compile(
    r"answer(?: is\b:?| ?[:=])|^[#*_ ]*(?:the )?(?:final )?answer[*_ ]*$",
    re.IGNORECASE | re.MULTILINE,
)
_PHRASE_REACH = 4_000  # characters from the end of the response
_BEFORE_ANSWER = " *_:#\r\n\t"
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?P<dollars>(?:\\.|[^$\\])+)\$\$|\\\[(?P<brackets>(?:(?!\\[\[\]]).)+)\\\]"
    r"|(?<!\\)\$(?P<inline>(?:\\.|[^$\\\n])+)\$|\\\((?P<parentheses>[^\n]+?)\\\)",
    re.DOTALL,
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is none


def final_answer(response: str) -> str | None:
    """The text of the answer; None when the response gives none.

    A box or tag that is opened last and not closed belongs to a response that was cut off: no answer, whatever
    came before.
    """
    for find in (boxed, tagged, announced):
        answer = find(response)
        if answer is not None:
            return answer.strip() or None
    return None


def boxed(response: str, longest: int | None = LONGEST) -> str | None:
    """What stands in the last `\\boxed` or `\\fbox`; empty when that is not closed, None when there is none.

    Args:
        longest: characters in which it must be closed; None for as many as it takes.
    """
    start = max(response.rfind("\\boxed"), response.rfind("\\fbox"))
    if start < 0:
        return None
    content = response[start:][:longest].partition("box")[2].removeprefix("ed").lstrip()
    if not content.startswith("{"):
        return (content.partition("$")[0].split() or [""])[0]  # TeX takes \boxed 5 too
    depth = 0
    for brace in _BRACE.finditer(content):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return content[1 : brace.start()]
    return ""


def tagged(response: str) -> str | None:
    """What stands in the last `<answer>`; empty when that is not closed, None when there is none."""
    start = response.rfind("<answer>")
    if start < 0:
        return None
    answer, closed, _ = response[start + len("<answer>") :][:LONGEST].partition("</answer>")
    return answer if closed else ""


def announced(response: str) -> str | None:
    """The formula, or else the sentence, after the last words that announce an answer; None without any."""
    tail = response[-_PHRASE_REACH:]
    phrases = list(_PHRASE.finditer(tail))
    if not phrases:
        return None
    rest = tail[phrases[-1].end() :]
    answer, follows = _formula_or_line(rest)
    if answer.endswith(":"):  # The answer is as follows:
        answer, _ = _formula_or_line(follows)
    return answer


def _formula_or_line(text: str) -> tuple[str, str]:
    """The formula that begins in the first line that is not empty, or else its first sentence; and what follows."""
    text = text.lstrip(_BEFORE_ANSWER)[:LONGEST]
    line, _, follows = text.partition("\n")
    formula = _FORMULA.search(text)
    if formula and formula.start() <= len(line):
        return next(filter(None, formula.groups())), text[formula.end() :]
    return re.split(r"\.(?:\s|$)", line, maxsplit=1)[0].strip(" *_\r"), follows
