"""Whether two mathematical answers are equal, by math-verify. May take for ever on some texts, so it belongs into a
process that can be killed: `dps_ray.tasks.confinement.equal` sees to that.

Importing this module takes 1 to 2 s (SymPy, ANTLR), and nothing else here imports it at its top.

What is added to math-verify:

- Powers, factorials and binomials beyond `MOST_DIGITS` are no answers. SymPy would write them out.
- Two expressions that differ in their first five digits, for some value of their variables, are not equal. Most wrong
  answers end here, and SymPy need not try to simplify their difference, which is what takes long. It also makes
  the rounding of decimals relative: math-verify compares six places, with which 0.0000672 is 0.0000674.
- For figures, whose answers are often rounded, a tolerance (`rounded`).
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

# It warns that its own time limits are off. They are: see above.
logging.getLogger("math_verify").setLevel(logging.ERROR)

MOST_DIGITS = 10_000
CLEARLY = 1e-5  # different, relative
TOLERANCE = 1e-3  # relative, of a decimal to an exact reference

Parsed = list[Any]  # what math-verify made of a text: a SymPy object if it could, and the text

_PERCENT = UnevaluatedExpr(sympy.Rational(1, 100))
_COUNTABLE = 8  # digits of an exponent that can be worked out
# The box and nothing else: it would look for a fraction within what it cannot parse.
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
    """`equal` as a reward function, for a sandbox."""
    return float(equal(ground_truth, solution_str, extra_info["numeric"]))


def equal(truth: str, answer: str, numeric: bool = False) -> bool:
    """Whether two answers in LaTeX are equal. What cannot be parsed equals only the same text.

    Args:
        numeric: also when they are numbers, one of them rounded.
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
    """Whether one of two real numbers is the other one rounded.

    A decimal reference is taken as rounded to its last place: 5.8 stands for 5.75 to 5.85, and so for \\sqrt{34}. A
    decimal answer may differ by `TOLERANCE` from an exact reference: 5.83 and 5.831 are \\sqrt{34}. Two whole
    numbers or fractions are not rounded: they are equal or not.

    Args:
        text: of the reference, as it was written.
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


# The responses to one prompt have one reference.
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
    """i as the number, and I as a variable: math-verify takes them the other way round, and where it sees a number i
    no variable for real."""
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
    except Exception:  # as below: i may count the terms of a sum, too
        return value


def _verify(left: Parsed, right: Parsed) -> bool:
    found: bool = verify(left, right, timeout_seconds=None, allow_set_relation_comp=True)
    return found


def _with_roots_spread(left: Any, right: Any) -> tuple[Parsed, Parsed]:
    """See `dps_ray.tasks.roots`. Empty, and so equal to nothing, if that makes no difference."""
    try:
        pair = spread(left, right)
    except MemoryError:
        raise
    except Exception:  # as below
        pair = None
    return ([pair[0]], [pair[1]]) if pair else ([], [])


def _differ(left: Any, right: Any) -> bool:
    """Whether two expressions have clearly different values at a sample point.

    `x = 5` is 5 beside an expression, as for math-verify.
    """
    if isinstance(left, sympy.Eq) != isinstance(right, sympy.Eq):
        left, right = (each.rhs if isinstance(each, sympy.Eq) else each for each in (left, right))
    if not all(
        isinstance(each, sympy.Expr) and not isinstance(each, sympy.Symbol)
        for each in (left, right)
    ):
        return False
    if left.has(_PERCENT) or right.has(_PERCENT):  # 5% may stand for 5, and for 0.05
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
    except Exception:  # of any kind, of a product of a matrix and an interval and the like
        return False


def _too_large(parsed: Parsed) -> bool:
    return any(_digits(each) > MOST_DIGITS for each in parsed)


def _digits(value: Any) -> float:
    """About how many digits the longest number in it has once it is worked out; rather more than fewer."""
    if isinstance(value, sympy.Integer):
        return value.p.bit_length() * math.log10(2)
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
    """Digits of a power, from those of its base and exponent."""
    if digits > _COUNTABLE:
        return math.inf
    value = _real(exponent)
    return base + digits if value is None else max(base, 1.0) * abs(value)


def _real(value: Any) -> float | None:
    """The value of a number, or of the right-hand side of an equation; None for all else."""
    if isinstance(value, sympy.Eq):
        value = value.rhs
    try:
        return float(value) if isinstance(value, sympy.Expr) and value.is_number else None
    except MemoryError:
        raise
    except Exception:  # as above
        return None
