"""Extraction of the final answer from a response to a mathematical problem.

    ... so the area is \\boxed{\\frac{1}{2}}.          \\frac{1}{2}

The last `\\boxed{...}` counts, as in the published graders. Without a box the last `<answer>...</answer>` counts.
Without both, the text after the last "answer is" or "answer:" counts; it may be on the same line, on the next line, or
in a displayed formula. The code searches for fixed words and scans the braces once, so its time is linear in the text.
"""

import re

LONGEST = 2_000  # most characters of an answer

# "The answer is", "Answer:", or a separate line such as "## Final answer"
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
_BRACE = re.compile(
    r"\\.|[{}]", re.DOTALL
)  # escaped characters, so that escaped braces do not count


def final_answer(response: str) -> str | None:
    """The text of the answer; None if the response gives none.

    If the last box or tag is not closed, the response was cut off: it gives no answer, even if an earlier box or tag
    is complete.
    """
    for find in (boxed, tagged, announced):
        answer = find(response)
        if answer is not None:
            return answer.strip() or None
    return None


def boxed(response: str, longest: int | None = LONGEST) -> str | None:
    """The content of the last `\\boxed` or `\\fbox`; empty if it is not closed, None if there is none.

    Args:
        longest: the number of characters within which the box must close; None sets no limit.
    """
    start = max(response.rfind("\\boxed"), response.rfind("\\fbox"))
    if start < 0:
        return None
    content = response[start:][:longest].partition("box")[2].removeprefix("ed").lstrip()
    if not content.startswith("{"):
        return (content.partition("$")[0].split() or [""])[0]  # TeX also accepts \boxed 5
    depth = 0
    for brace in _BRACE.finditer(content):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return content[1 : brace.start()]
    return ""


def tagged(response: str) -> str | None:
    """The content of the last `<answer>`; empty if it is not closed, None if there is none."""
    start = response.rfind("<answer>")
    if start < 0:
        return None
    answer, closed, _ = response[start + len("<answer>") :][:LONGEST].partition("</answer>")
    return answer if closed else ""


def announced(response: str) -> str | None:
    """The formula, or otherwise the sentence, after the last words that announce an answer; None without such words."""
    tail = response[-_PHRASE_REACH:]
    phrases = list(_PHRASE.finditer(tail))
    if not phrases:
        return None
    rest = tail[phrases[-1].end() :]
    answer, follows = _formula_or_line(rest)
    if answer.endswith(":"):  # such as "The answer is as follows:"
        answer, _ = _formula_or_line(follows)
    return answer


def _formula_or_line(text: str) -> tuple[str, str]:
    """Returns an answer and the text after it. The answer is the formula that begins in the first nonempty line, or
    otherwise that line's first sentence."""
    text = text.lstrip(_BEFORE_ANSWER)[:LONGEST]
    line, _, follows = text.partition("\n")
    formula = _FORMULA.search(text)
    if formula and formula.start() <= len(line):
        return next(filter(None, formula.groups())), text[formula.end() :]
    return re.split(r"\.(?:\s|$)", line, maxsplit=1)[0].strip(" *_\r"), follows
