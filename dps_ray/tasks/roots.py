"""Roots of products as products of roots: \\sqrt{\\frac{a}{b}} and \\frac{\\sqrt{a}}{\\sqrt{b}} are one answer.

SymPy keeps them apart, as the first has a real value where a and b are negative, and the second has none. Here two
expressions are equal if they are equal wherever both are real, and that is somewhere with positive variables. Two
rules follow:

- An even root of a product is the product of the roots of the absolute values: \\sqrt{ab} = \\sqrt{|a|} \\sqrt{|b|},
  and \\sqrt{x^2} = |x|, which is not x.
- Where x alone stands under an even root, of either expression, x is not negative: |x| = x there.

It is not assumed that variables are positive: that would make x of |x| and of \\sqrt{x^2}.
"""

from typing import Any

import sympy


def spread(left: Any, right: Any) -> tuple[Any, Any] | None:
    """Two SymPy objects with their roots spread; None when they have no roots, or cannot both be real."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not all(symbol.is_real for symbol in symbols):
        return None
    pair = [_rebuilt(each) for each in (left, right)]
    roots = [power for each in pair for power in each.atoms(sympy.Pow) if _is_root(power)]
    if not roots or not any(
        _all_real(roots, symbols, scale) for scale in (1, sympy.Rational(1, 9))
    ):
        return None
    not_negative = {
        sympy.Abs(symbol): symbol for root in roots if (symbol := _sole_symbol(root)) is not None
    }
    left, right = (_spread(each).xreplace(not_negative) for each in pair)
    return left, right


def _rebuilt(value: Any) -> Any:
    """The same, evaluated: \\sqrt{x} \\sqrt{x} is x. math-verify leaves it as it was written."""
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(_rebuilt)
    return value.func(*map(_rebuilt, value.args)) if value.args else value


def _is_root(power: Any) -> bool:
    return (
        isinstance(power, sympy.Pow) and isinstance(power.exp, sympy.Rational) and power.exp.q > 1
    )


def _factors(root: Any) -> list[tuple[Any, Any]]:
    """Base and exponent of each factor under a root."""
    return [
        (base, exponent) if isinstance(exponent, sympy.Rational) else (base**exponent, 1)
        for base, exponent in (each.as_base_exp() for each in sympy.Mul.make_args(root.base))
    ]


def _all_real(roots: list[Any], symbols: list[Any], scale: Any) -> bool:
    """Whether what is under even roots is positive at a point where all variables are."""
    point = {symbol: scale * sympy.sqrt(sympy.prime(2 + i)) for i, symbol in enumerate(symbols)}
    values = (root.base.evalf(20, subs=point) for root in roots if root.exp.q % 2 == 0)
    return all(value.is_Float and value > 0 for value in values)


def _sole_symbol(root: Any) -> Any:
    """The variable that cannot be negative, since it alone decides the sign under an even root; else None."""
    odd = [base for base, exponent in _factors(root) if not base.is_positive and exponent % 2 != 0]
    is_sole = root.exp.q % 2 == 0 and len(odd) == 1 and isinstance(odd[0], sympy.Symbol)
    return odd[0] if is_sole else None


def _spread(value: Any) -> Any:
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(_spread)
    if not value.args:
        return value
    value = value.func(*map(_spread, value.args))
    if not _is_root(value):
        return value
    even = value.exp.q % 2 == 0
    factors = [
        (sympy.Abs(base) if even else base) ** (exponent * value.exp)
        for base, exponent in _factors(value)
    ]
    return sympy.Mul(*factors)
