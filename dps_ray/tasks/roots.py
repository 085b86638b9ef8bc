"""Rewrites roots of products as products of roots, so that \\sqrt{\\frac{a}{b}} equals \\frac{\\sqrt{a}}{\\sqrt{b}}.

SymPy treats them as different, because for negative a and b the first is real and the second is not. Here two
expressions are equal if they are equal wherever both are real, provided that both are real for some positive values
of the variables. Two rules follow:

- An even root of a product is the product of the roots of the absolute values: \\sqrt{ab} = \\sqrt{|a|} \\sqrt{|b|},
  and \\sqrt{x^2} = |x|, which is not x.
- If x alone is under an even root of either expression, x is not negative, so |x| = x.

Variables are not assumed to be positive: that would make |x| and \\sqrt{x^2} equal to x.
"""

from typing import Any

import sympy


def spread(left: Any, right: Any) -> tuple[Any, Any] | None:
    """Two SymPy objects with roots of products spread over the factors; None if they contain no roots of variables, or
    cannot both be real."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols or not all(symbol.is_real for symbol in symbols):
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
    """The value, evaluated: \\sqrt{x} \\sqrt{x} becomes x. math-verify leaves expressions as they were written."""
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(_rebuilt)
    return value.func(*map(_rebuilt, value.args)) if value.args else value


def _is_root(power: Any) -> bool:
    return (
        isinstance(power, sympy.Pow) and isinstance(power.exp, sympy.Rational) and power.exp.q > 1
    )


def _factors(root: Any) -> list[tuple[Any, Any]]:
    """The base and exponent of each factor under a root."""
    return [
        (base, exponent) if isinstance(exponent, sympy.Rational) else (base**exponent, 1)
        for base, exponent in (each.as_base_exp() for each in sympy.Mul.make_args(root.base))
    ]


def _all_real(roots: list[Any], symbols: list[Any], scale: Any) -> bool:
    """Whether all radicands of even roots are positive at one sample point with positive variables."""
    point = {symbol: scale * sympy.sqrt(sympy.prime(2 + i)) for i, symbol in enumerate(symbols)}
    values = (root.base.evalf(20, subs=point) for root in roots if root.exp.q % 2 == 0)
    return all(value.is_Float and value > 0 for value in values)


def _sole_symbol(root: Any) -> Any:
    """The variable that alone determines the sign under an even root, and so cannot be negative; None if there is
    none."""
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
