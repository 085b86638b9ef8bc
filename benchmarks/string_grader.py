"""The grader that mathematics is usually scored with, to compare ours with: two answers are equal when they are the same
text once their spelling is normalised.

Written anew from the rules of Hendrycks et al. 2021 (arXiv 2103.03874, `is_equiv` in their repository, which verl's
`math_reward` follows): a rule a line, in their order.
"""

import re

_RULES = [
    (r"\n|\\!", ""),
    (r"\\\\", r"\\"),
    (r"\\[td]frac", r"\\frac"),
    (r"\\left|\\right", ""),
    (r"\^\{\\circ\}|\^\\circ", ""),
    (r"\\\$", ""),
    (r"\\text\{ .*", ""),  # a unit
    (r"\\%|%", ""),
    (r" \.", " 0."),
    (r"\{\.", "{0."),
    (r"^\.", "0."),
    (r"^[^=]{1,2}=([^=]*)$", r"\1"),  # x = 5
    (r"\\sqrt([^{])", r"\\sqrt{\1}"),
    (r" ", ""),
    (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"),
    (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"^0\.5$", r"\\frac{1}{2}"),
    (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
]
RULES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


def same_text(truth: str, answer: str) -> bool:
    """Whether two answers are the same text, normalised."""
    return _normal(truth) == _normal(answer)


def _normal(text: str) -> str:
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text
