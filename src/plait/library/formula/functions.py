"""The functions that a formula may use: their types, their meaning and their derivatives.

One line each. The meaning is given twice, over arrays (what an eager call computes) and over
tensors (what a compiler sees); a test holds the two equal. Must not know operators of users.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from plait.base.errors import DtypeMismatch
from plait.library.formula.terms import Term, apply, number
from plait.ops import aten
from plait.ops.powers import numpy_power
from plait.ops.special import erf as numpy_erf
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType, get_default_dtype
from plait.tensor.promotion import result_type_of

__all__ = ["FUNCTIONS", "Function", "Typed"]

Typed = tuple[DType, int]
"""An operand's dtype and rank, as `result_type_of` has them."""
Types = Callable[[Sequence[Typed]], tuple[tuple[DType, ...], DType]]
Slope = Callable[[Sequence[Term], Term, Sequence[Term | None]], Term | None]


class Function(NamedTuple):
    """One function.

    types: operands -> (dtype in which each is taken, dtype of the result).
    array: over arrays of those dtypes. tensor: over tensors and numbers, at least one a tensor.
    slope: (operands, the result, derivative of each operand or None) -> derivative or None, where
        None stands for zero.
    """

    arity: int
    types: Types
    array: Callable[..., Any]
    tensor: Callable[..., Any]
    slope: Slope


# ---------------------------------------------------------------- types


def _same(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    dtype = result_type_of(operands)
    return (dtype,) * len(operands), dtype


def _numeric(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    taken, dtype = _same(operands)
    if dtype.is_bool:
        raise DtypeMismatch(
            "does not take bool operands only; convert one to a number, or use and, or, not."
        )
    return taken, dtype


def _difference(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    if any(dtype.is_bool for dtype, _ in operands):
        raise DtypeMismatch("does not take bools; convert them to numbers, or use and, or, not.")
    return _same(operands)


def _float(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    dtype = result_type_of(operands)
    dtype = get_default_dtype() if dtype.category < 2 else dtype
    return (dtype,) * len(operands), dtype


def _truth(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    return _same(operands)[0], dtypes.bool_


def _logic(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    return (dtypes.bool_,) * len(operands), dtypes.bool_


def _choice(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
    dtype = result_type_of(operands[1:])
    return (dtypes.bool_, dtype, dtype), dtype


# ---------------------------------------------------------------- terms of derivatives
# Constructors that simplify: they stand in derivatives only, which may lose a factor 1 but never
# a NaN. None is zero.


def mul(a: Term, b: Term) -> Term:
    """a * b; numbers are gathered on the left."""
    if b.is_number and not a.is_number:
        a, b = b, a
    if a.is_number and b.is_number:
        return number(_float_of(a) * _float_of(b))
    if b.fn == "div" and b.args[0].leaf == 1:
        return apply("div", a, b.args[1])
    if not a.is_number:
        return apply("mul", a, b)
    if a.leaf == 1:
        return b
    if a.leaf == -1:
        return neg(b)
    if b.fn == "mul" and b.args[0].is_number:
        return mul(mul(a, b.args[0]), b.args[1])
    if b.fn == "neg":
        return mul(number(-_float_of(a)), b.args[0])
    return apply("mul", a, b)


def neg(a: Term) -> Term:
    """-a."""
    if a.is_number:
        return number(-_float_of(a))
    if a.fn == "neg":
        return a.args[0]
    if a.fn == "mul" and a.args[0].is_number:
        return mul(number(-_float_of(a.args[0])), a.args[1])
    if a.fn == "div" and a.args[0].is_number:
        return apply("div", number(-_float_of(a.args[0])), a.args[1])
    return apply("neg", a)


def add(a: Term | None, b: Term | None) -> Term | None:
    """a + b."""
    if a is None or b is None:
        return a if b is None else b
    if a.is_number and b.is_number:
        return number(_float_of(a) + _float_of(b))
    if b.fn == "neg":
        return apply("sub", a, b.args[0])
    return mul(number(2.0), a) if a is b else apply("add", a, b)


def pick(condition: Term, a: Term | None, b: Term | None) -> Term | None:
    """a where the condition holds, else b."""
    if a is b:
        return a
    zero = number(0.0)
    return apply("where", condition, a or zero, b or zero)


def _float_of(term: Term) -> float:
    assert isinstance(term.leaf, int | float)
    return float(term.leaf)


def _flat(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> None:
    """Constant but for steps."""


def _chain(rule: Callable[[Term, Term], Term]) -> Slope:
    """The slope of a function of one operand: ``rule(x, out)``."""

    def slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
        return None if slopes[0] is None else mul(rule(args[0], out), slopes[0])

    return slope


def _add_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    return add(*slopes)


def _sub_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    return add(slopes[0], None if slopes[1] is None else neg(slopes[1]))


def _mul_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    (a, b), (da, db) = args, slopes
    if a is b and da is not None:
        return mul(number(2.0), mul(a, da))
    return add(None if da is None else mul(da, b), None if db is None else mul(a, db))


def _div_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    (a, b), (da, db) = args, slopes
    left = None if da is None else apply("div", da, b)
    right = None if db is None else neg(mul(db, apply("div", apply("div", a, b), b)))
    return add(left, right)


def _pow_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    (a, b), (da, db) = args, slopes
    zero = number(0)
    left = right = None
    if da is not None:
        left = _power_rule(a, b, da)
        if left is not None and not b.is_number:
            left = pick(apply("eq", b, zero), None, left)
    if db is not None:
        flat = apply("and", apply("eq", a, zero), apply("ge", b, zero))
        right = pick(flat, None, mul(mul(out, apply("log", a)), db))
    return add(left, right)


def _power_rule(a: Term, b: Term, da: Term) -> Term | None:
    """b * a ** (b - 1) * da."""
    if not b.is_number:
        return mul(mul(b, apply("pow", a, apply("sub", b, number(1)))), da)
    n = b.leaf
    assert isinstance(n, int | float)
    if n == 0:
        return None
    if n == 1:
        return da
    return mul(mul(number(n), a if n == 2 else apply("pow", a, number(n - 1))), da)


def _extreme_slope(loses: str, wins: str) -> Slope:
    """Where both are equal each has half; a NaN passes both on. As aten::maximum."""

    def share(mine: Term, other: Term, slope: Term | None) -> Term | None:
        if slope is None:
            return None
        halved = pick(apply("eq", mine, other), mul(number(0.5), slope), slope)
        return pick(apply(loses, mine, other), None, halved)

    def slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
        a, b = args
        return add(share(a, b, slopes[0]), share(b, a, slopes[1]))

    return slope


def _clamp_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    """The edges belong to the inside. As aten::clamp."""
    x, low, high = args
    inside = apply("and", apply("ge", x, low), apply("le", x, high))
    # Where the bounds are the wrong way round the result is the upper one.
    below = apply("and", apply("lt", x, low), apply("lt", low, high))
    above = apply("or", apply("gt", x, high), apply("gt", low, high))
    total: Term | None = None
    for condition, slope in zip((inside, below, above), slopes):
        total = add(total, None if slope is None else pick(condition, slope, None))
    return total


def _where_slope(args: Sequence[Term], out: Term, slopes: Sequence[Term | None]) -> Term | None:
    return pick(args[0], slopes[1], slopes[2])


# ---------------------------------------------------------------- meanings


def _tensors(*operands: Any) -> tuple[Any, ...]:
    """Numbers as tensors without dimensions, which promote as numbers do."""
    like = next(x for x in operands if hasattr(x, "_keys"))
    return tuple(x if hasattr(x, "_keys") else _scalar(like, x) for x in operands)


def _scalar(like: Any, value: Any) -> Any:
    dtype = result_type_of([(like.dtype, len(like.shape)), (dtypes_of(value), -1)])
    return aten.scalar_tensor.default(value, dtype=dtype)


def dtypes_of(value: Any) -> DType:
    """The dtype that a number brings along."""
    if isinstance(value, bool):
        return dtypes.bool_
    return dtypes.int64 if isinstance(value, int) else get_default_dtype()


def _bool(x: Any) -> Any:
    if not hasattr(x, "_keys"):
        return aten.scalar_tensor.default(bool(x), dtype=dtypes.bool_)
    return x if x.dtype is dtypes.bool_ else aten.ne.Scalar(x, 0)


def _aten1(name: str) -> Callable[[Any], Any]:
    return lambda x: getattr(aten, name).default(x)


def _reflected(x: Any, y: Any) -> Any:
    """x - y where x may be a number."""
    return aten.rsub.Scalar(y, x) if not hasattr(x, "_keys") else x - y


def _maximum(x: Any, y: Any) -> Any:
    return aten.maximum.default(*_tensors(x, y))


def _minimum(x: Any, y: Any) -> Any:
    return aten.minimum.default(*_tensors(x, y))


def _where(condition: Any, x: Any, y: Any) -> Any:
    if not hasattr(x, "_keys") and not hasattr(y, "_keys"):
        dtype = result_type_of([(dtypes_of(x), -1), (dtypes_of(y), -1)])
        x, y = (aten.scalar_tensor.default(v, dtype=dtype) for v in (x, y))
    return aten.where.self(_bool(condition), *_tensors(x, y))


def _clamp(x: Any, low: Any, high: Any) -> Any:
    if hasattr(x, "_keys") and not hasattr(low, "_keys") and not hasattr(high, "_keys"):
        return aten.clamp.default(x, low, high)
    x, low, high = _tensors(x, low, high)
    return aten.minimum.default(aten.maximum.default(x, low), high)


def _not_bool(types: Types) -> Types:
    def checked(operands: Sequence[Typed]) -> tuple[tuple[DType, ...], DType]:
        _numeric(operands)
        return types(operands)

    return checked


_TWO_OVER_ROOT_PI = number(2 / math.sqrt(math.pi))
_ONE = number(1.0)


def _elementary(name: str, array: Any, rule: Callable[[Term, Term], Term]) -> Function:
    return Function(1, _float, array, _aten1(name), _chain(rule))


def _stepped(name: str, array: Any) -> Function:
    return Function(1, _numeric, array, _aten1(name), _flat)


def _keeps_integers(fn: Any) -> Any:
    return lambda x: fn(x) if x.dtype.kind == "f" else x.copy()


def _compare(array: Any, tensor: Any) -> Function:
    return Function(2, _truth, array, tensor, _flat)


def _classify(name: str, array: Any) -> Function:
    return Function(1, _truth, array, _aten1(name), _flat)


# fmt: off
FUNCTIONS: dict[str, Function] = {
    "add": Function(2, _same, np.add, operator.add, _add_slope),
    "sub": Function(2, _difference, np.subtract, _reflected, _sub_slope),
    "mul": Function(2, _same, np.multiply, operator.mul, _mul_slope),
    "div": Function(2, _float, np.true_divide, operator.truediv, _div_slope),
    "pow": Function(2, _numeric, numpy_power, operator.pow, _pow_slope),
    "neg": Function(1, _numeric, np.negative, operator.neg, _chain(lambda x, out: number(-1.0))),
    "abs": Function(1, _numeric, np.abs, _aten1("abs"), _chain(lambda x, out: apply("sign", x))),
    "sign": _stepped("sign", lambda x: np.subtract(x > 0, x < 0, dtype=x.dtype)),
    "floor": _stepped("floor", _keeps_integers(np.floor)),
    "ceil": _stepped("ceil", _keeps_integers(np.ceil)),
    "trunc": _stepped("trunc", _keeps_integers(np.trunc)),
    "round": _stepped("round", _keeps_integers(np.rint)),
    "square": Function(1, _numeric, np.square, _aten1("square"),
                       _chain(lambda x, out: mul(number(2.0), x))),
    "exp": _elementary("exp", np.exp, lambda x, out: out),
    "expm1": _elementary("expm1", np.expm1, lambda x, out: apply("add", out, _ONE)),
    "log": _elementary("log", np.log, lambda x, out: apply("div", _ONE, x)),
    "log1p": _elementary("log1p", np.log1p,
                         lambda x, out: apply("div", _ONE, apply("add", x, _ONE))),
    "sqrt": _elementary("sqrt", np.sqrt, lambda x, out: apply("div", number(0.5), out)),
    "rsqrt": _elementary("rsqrt", lambda x: 1 / np.sqrt(x),
                         lambda x, out: mul(number(-0.5), apply("pow", out, number(3)))),
    "reciprocal": _elementary("reciprocal", lambda x: 1 / x,
                              lambda x, out: neg(apply("square", out))),
    "erf": _elementary("erf", numpy_erf,
                       lambda x, out: mul(_TWO_OVER_ROOT_PI,
                                          apply("exp", neg(apply("square", x))))),
    "sin": _elementary("sin", np.sin, lambda x, out: apply("cos", x)),
    "cos": _elementary("cos", np.cos, lambda x, out: neg(apply("sin", x))),
    "tanh": _elementary("tanh", np.tanh,
                        lambda x, out: apply("sub", _ONE, apply("square", out))),
    "sigmoid": _elementary("sigmoid", lambda x: 1 / (1 + np.exp(-x)),
                           lambda x, out: mul(out, apply("sub", _ONE, out))),
    "lt": _compare(np.less, operator.lt), "le": _compare(np.less_equal, operator.le),
    "gt": _compare(np.greater, operator.gt), "ge": _compare(np.greater_equal, operator.ge),
    "eq": _compare(np.equal, operator.eq), "ne": _compare(np.not_equal, operator.ne),
    "isnan": _classify("isnan", np.isnan), "isinf": _classify("isinf", np.isinf),
    "isfinite": _classify("isfinite", np.isfinite),
    "not": Function(1, _logic, np.logical_not,
                    lambda x: aten.logical_not.default(_bool(x)), _flat),
    "and": Function(2, _logic, np.logical_and,
                    lambda x, y: aten.logical_and.default(_bool(x), _bool(y)), _flat),
    "or": Function(2, _logic, np.logical_or,
                   lambda x, y: aten.logical_or.default(_bool(x), _bool(y)), _flat),
    "max": Function(2, _same, np.maximum, _maximum, _extreme_slope("lt", "gt")),
    "min": Function(2, _same, np.minimum, _minimum, _extreme_slope("gt", "lt")),
    "clamp": Function(3, _not_bool(_same),
                      lambda x, low, high: np.minimum(np.maximum(x, low), high),
                      _clamp, _clamp_slope),
    "where": Function(3, _choice, np.where, _where, _where_slope),
}
# fmt: on
