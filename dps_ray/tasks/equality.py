"""Comparison of two mathematical answers by math-verify. Some texts can keep it busy for ever, so it has to run in a
process that can be killed: use `dps_ray.tasks.confinement.equal`.

Importing this module takes 1 to 2 s (SymPy, ANTLR). No other module of this package imports it at the top.

Additions to math-verify:

- Powers, factorials and binomials with more than `MOST_DIGITS` digits are never equal to a reference. SymPy would write
  them out.
- Two expressions are not equal if their values differ within the first five digits at a sample point of their
  variables. This rejects most wrong answers without the slow part, in which SymPy simplifies their difference. It
  also makes the comparison of decimals relative: math-verify compares six places, so that 0.0000672 equals 0.0000674.
- Answers to figures are often rounded, so a tolerance is available (`rounded`).
- i is the imaginary unit. Roots of products equal products of roots where both are real (`dps_ray.tasks.roots`).

math-verify's list of units is disabled, because it reads `3t` as 3; `dps_ray.tasks.units` removes units beforehand.
"""

import logging
import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sympy
from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig
from sympy.core.expr import UnevaluatedExpr

from dps_ray.tasks.roots import spread

# math-verify warns that its own time limits are disabled. They are: the process limits the time instead.
logging.getLogger("math_verify").setLevel(logging.ERROR)

MOST_DIGITS = 10_000
CLEARLY = 1e-5  # relative difference beyond which values are clearly different
TOLERANCE = 1e-3  # relative tolerance for a decimal answer to an exact reference

Parsed = list[
    Any
]  # math-verify's result for a text: a SymPy object if it could parse the text, and the text

_PERCENT = UnevaluatedExpr(sympy.Rational(1, 100))
_COUNTABLE = 8  # most digits of an exponent whose power is estimated; beyond, it counts as infinite
# Only the box is parsed: math-verify would otherwise search unparsable text for a fraction.
_LATEX = (
    LatexExtractionConfig(
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=replace(LatexExtractionConfig().normalization_config, units=False),
    ),
)


def score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, bool]
) -> float:
    """`equal` with the signature of a reward function, so that a sandbox can run it."""
    return float(equal(ground_truth, solution_str, extra_info["numeric"]))


def equal(truth: str, answer: str, numeric: bool = False) -> bool:
    """Whether two answers in LaTeX are equal. Text that cannot be parsed equals only the same text.

    Args:
        numeric: whether a number also equals its rounded value.
    """
    left, right = _parse(truth), _parse(answer)
    if not left or not right or _too_large(right):
        return False
    left, right = ([_with_imaginary_unit(value) for value in parsed] for parsed in (left, right))
    if not _differ(left[0], right[0]) and (
        _verify(left, right) or _verify(*_with_roots_spread(left[0], right[0]))
    ):
        return True
    return numeric and rounded(truth, left[0], right[0])


def rounded(text: str, truth: Any, answer: Any) -> bool:
    """Whether one of two real numbers is the rounded value of the other.

    A decimal reference counts as rounded to its last place: 5.8 stands for 5.75 to 5.85, so it equals \\sqrt{34}. A
    decimal answer may differ by `TOLERANCE` from an exact reference: 5.83 and 5.831 equal \\sqrt{34}. Whole numbers
    and fractions never count as rounded; two of them must be equal.

    Args:
        text: the reference as it was written.
    """
    expected, given = _real(truth), _real(answer)
    if expected is None or given is None:
        return False
    decimal = re.search(r"\.(\d+)", text)
    if decimal:
        return abs(given - expected) <= 0.5000001 * 10.0 ** -len(decimal.group(1))
    if isinstance(truth, sympy.Rational) and isinstance(answer, sympy.Rational):
        return False
    return abs(given - expected) <= TOLERANCE * abs(expected)


# Cached because all responses to a prompt have the same reference.
@lru_cache(maxsize=64)
def _parse(text: str) -> Parsed:
    found: Parsed = parse(
        f"\\boxed{{{text}}}",
        extraction_config=_LATEX,
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found


def _with_imaginary_unit(value: Any) -> Any:
    """The value with i as the imaginary unit and I as a variable. math-verify reads them the other way round, and in
    expressions with complex numbers it does not assume that variables are real."""
    if not isinstance(value, sympy.Basic | sympy.MatrixBase):
        return value
    changes = {
        symbol: sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True)
        for symbol in value.free_symbols
        if symbol.name == "i" or not symbol.is_real
    }
    if value.has(sympy.I):
        changes[sympy.I] = sympy.Symbol("i", real=True)
    try:
        return value.xreplace(changes) if changes else value
    except MemoryError:
        raise
    except Exception:  # SymPy raises many types, for example if i is the index of a sum
        return value


def _verify(left: Parsed, right: Parsed) -> bool:
    found: bool = verify(left, right, timeout_seconds=None, allow_set_relation_comp=True)
    return found


def _with_roots_spread(left: Any, right: Any) -> tuple[Parsed, Parsed]:
    """Both values with their roots spread as in `dps_ray.tasks.roots`; empty lists, which equal nothing, if spreading
    does not apply."""
    try:
        pair = spread(left, right)
    except MemoryError:
        raise
    except Exception:  # SymPy raises many types
        pair = None
    return ([pair[0]], [pair[1]]) if pair else ([], [])


def _differ(left: Any, right: Any) -> bool:
    """Whether two expressions have clearly different values at a sample point.

    If only one of them is an equation, such as `x = 5`, its right-hand side is compared, as in math-verify.
    """
    if isinstance(left, sympy.Eq) != isinstance(right, sympy.Eq):
        left, right = (each.rhs if isinstance(each, sympy.Eq) else each for each in (left, right))
    if not all(
        isinstance(each, sympy.Expr) and not isinstance(each, sympy.Symbol)
        for each in (left, right)
    ):
        return False
    if left.has(_PERCENT) or right.has(_PERCENT):  # 5% may mean 5 or 0.05
        return False
    names = sorted({symbol.name for symbol in left.free_symbols | right.free_symbols})
    points = {name: sympy.sqrt(sympy.prime(2 + place)) for place, name in enumerate(names)}
    try:
        values = [
            each.evalf(20, subs={symbol: points[symbol.name] for symbol in each.free_symbols})
            for each in (left, right)
        ]
        return bool(abs(values[0] - values[1]) > CLEARLY * max(map(abs, values)))
    except MemoryError:
        raise
    except (
        Exception
    ):  # SymPy raises many types, for example for a product of a matrix and an interval
        return False


def _too_large(parsed: Parsed) -> bool:
    return any(_digits(each) > MOST_DIGITS for each in parsed)


def _digits(value: Any) -> float:
    """Estimates, rather too high than too low, the digits of the longest number in a value once it is evaluated."""
    if isinstance(value, sympy.Integer):
        return float(value.p.bit_length() * math.log10(2))
    if isinstance(value, sympy.MatrixBase):
        return max(map(_digits, value.flat()), default=1.0)
    if not isinstance(value, sympy.Basic) or not value.args:
        return 1.0
    parts = [_digits(each) for each in value.args]
    if isinstance(value, sympy.Pow):
        return _power(parts[0], value.exp, parts[1])
    if isinstance(value, sympy.factorial | sympy.factorial2 | sympy.binomial):
        return _power(parts[0], value.args[0], parts[0])  # at most n^n
    return max(parts) + (sum(parts) if isinstance(value, sympy.Mul) else 1.0)


def _power(base: float, exponent: Any, digits: float) -> float:
    """The number of digits of a power. `base` and `digits` are the digits of its base and exponent."""
    if digits > _COUNTABLE:
        return math.inf
    value = _real(exponent)
    return base + digits if value is None else max(base, 1.0) * abs(value)


def _real(value: Any) -> float | None:
    """The value of a number, or of an equation's right-hand side; None for anything else."""
    if isinstance(value, sympy.Eq):
        value = value.rhs
    try:
        return float(value) if isinstance(value, sympy.Expr) and value.is_number else None
    except MemoryError:
        raise
    except Exception:  # SymPy raises many types
        return None
