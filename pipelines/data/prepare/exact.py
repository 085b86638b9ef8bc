"""Exact numbers in LaTeX."""

import math
from fractions import Fraction


def number(value: Fraction | int, unit: str = "") -> str:
    r"""A rational multiple of `unit` in LaTeX, such as 3, \frac{7}{2} or \frac{7\pi}{2}."""
    value = Fraction(value)
    top = unit if unit and value.numerator == 1 else f"{value.numerator}{unit}"
    return top if value.denominator == 1 else rf"\frac{{{top}}}{{{value.denominator}}}"


def root(square: int) -> str:
    r"""The square root of a whole number in LaTeX, simplified: 5, \sqrt{2}, 3\sqrt{2}."""
    outside = max(n for n in range(1, math.isqrt(square) + 1) if square % (n * n) == 0)
    inside = square // outside**2
    return number(outside, "" if inside == 1 else rf"\sqrt{{{inside}}}")
