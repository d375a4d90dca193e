"""Lowering of pointwise operators: one line each, over terms of one compute type.

NaN as in PyTorch: maximum, minimum, clamp and relu propagate it; comparisons with it are false.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from plait.backends.llvm.loop.builder import binary, cast, kept, literal, select, unary
from plait.backends.llvm.loop.terms import Term, is_float
from plait.backends.llvm.lowering.context import (
    SHORT,
    Context,
    Rule,
    Unsupported,
    compute_dtype,
    lowers,
    operand_term,
    short,
)
from plait.backends.llvm.lowering.stage import DEAR, Stage
from plait.symbolic.expr import Expr
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.promotion import NUMBER, result_type_of, scalar_dtype

__all__: list[str] = []

T = Term


def op1(name: str) -> Callable[[T], T]:
    """The unary operation `name`."""
    return lambda x: unary(name, x)


def op2(name: str) -> Callable[[T, T], T]:
    """The binary operation `name`."""
    return lambda x, y: binary(name, x, y)


def like(x: T, number: float) -> T:
    """A constant of the type of `x`."""
    return literal(number, x.dtype)


add, sub, mul, div = op2("add"), op2("sub"), op2("mul"), op2("div")
maximum, minimum = op2("max"), op2("min")
exp, log, sqrt, erf, tanh, sigmoid = (
    op1(n) for n in ["exp", "log", "sqrt", "erf", "tanh", "sigmoid"]
)


def nonzero(x: T) -> T:
    """Truth of a number."""
    return x if x.dtype == "i1" else binary("ne", x, like(x, 0))


def scaled(y: T, alpha: Any) -> T:
    """alpha * y."""
    return y if alpha == 1 else mul(y, like(y, alpha))


def sign(x: T) -> T:
    """-1, 0, 1; 0 for NaN."""
    return unary("sign", x) if x.dtype != "i1" else x


def gelu(x: T, approximate: str) -> T:
    """x * Phi(x), or its tanh form."""
    if approximate == "tanh":
        cube = mul(mul(x, x), x)
        inner = mul(add(x, mul(cube, like(x, 0.044715))), like(x, math.sqrt(2 / math.pi)))
        return mul(mul(like(x, 0.5), x), add(like(x, 1.0), tanh(inner)))
    phi = add(like(x, 1.0), erf(mul(x, like(x, math.sqrt(0.5)))))
    return mul(mul(x, like(x, 0.5)), phi)


def gelu_backward(g: T, x: T, approximate: str) -> T:
    """g * (Phi(x) + x * phi(x)), or the derivative of the tanh form."""
    if approximate == "tanh":
        beta, kappa = math.sqrt(2 / math.pi), 0.044715
        square = mul(x, x)
        inner = mul(mul(x, add(like(x, 1.0), mul(square, like(x, kappa)))), like(x, beta))
        t = tanh(inner)
        slope = mul(like(x, beta), add(like(x, 1.0), mul(square, like(x, 3 * kappa))))
        left = mul(like(x, 0.5), add(like(x, 1.0), t))
        right = mul(mul(mul(like(x, 0.5), x), sub(like(x, 1.0), mul(t, t))), slope)
        return mul(g, add(left, right))
    cdf = mul(like(x, 0.5), add(like(x, 1.0), erf(mul(x, like(x, math.sqrt(0.5))))))
    pdf = mul(exp(mul(mul(x, x), like(x, -0.5))), like(x, 1 / math.sqrt(2 * math.pi)))
    return mul(g, add(cdf, mul(x, pdf)))


def integer_power(x: T, n: int) -> T:
    """x**n by repeated squaring, n >= 0."""
    result: T | None = None
    while n:
        if n & 1:
            result = x if result is None else mul(result, x)
        x, n = mul(x, x), n >> 1
    return like(x, 1) if result is None else result


def power(x: T, exponent: Any) -> T:
    """x ** number."""
    if is_float(x.dtype):
        if exponent == 0.5:
            return sqrt(x)
        if exponent == -0.5:
            return unary("rsqrt", x)
        if exponent in (2, 3):
            return integer_power(x, int(exponent))
        if exponent == -1:
            return unary("recip", x)
        return x if exponent == 1 else binary("pow", x, like(x, exponent))
    return integer_power(x, int(exponent)) if 0 <= exponent < 64 else to_power(x, like(x, exponent))


def to_power(x: T, y: T) -> T:
    """x ** y; of integers to negative powers 0, except of 1 and -1; of booleans x or not y."""
    return binary("or", x, unary("not", y)) if x.dtype == "i1" else binary("pow", x, y)


def angle(x: T) -> T:
    """0 or pi by the sign; NaN of NaN."""
    turned = select(binary("lt", x, like(x, 0)), like(x, math.pi), like(x, 0))
    return select(unary("isnan", x), x, turned)


def clamp(x: T, low: T | None, high: T | None) -> T:
    """x inside [low, high]; NaN stays; where low > high the result is high."""
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)


def rounding_div(mode: str | None) -> Callable[[T, T], T]:
    """div with rounding_mode."""
    return op2({None: "div", "floor": "floordiv", "trunc": "truncdiv"}[mode])


def isfinite(x: T) -> T:
    """Neither NaN nor infinite."""
    if not is_float(x.dtype):
        return literal(True, "i1")
    return binary("lt", unary("abs", x), like(x, math.inf))


# ---------------------------------------------------------------- tables

# fmt: off
# Result and compute type are the type of the result (float for ints, by the operator's shape rule).
UNARY: dict[str, tuple[Callable[[T], T], int]] = {
    "neg": (op1("neg"), 1), "abs": (op1("abs"), 1), "sign": (sign, 1), "sgn": (sign, 1),
    "exp": (exp, DEAR), "expm1": (op1("expm1"), DEAR), "exp2": (op1("exp2"), DEAR),
    "log": (log, DEAR), "log1p": (op1("log1p"), DEAR), "log2": (op1("log2"), DEAR),
    "sqrt": (sqrt, 4), "rsqrt": (op1("rsqrt"), 4), "reciprocal": (op1("recip"), 3),
    "erf": (erf, DEAR), "sin": (op1("sin"), DEAR), "cos": (op1("cos"), DEAR),
    "tan": (op1("tan"), DEAR), "tanh": (tanh, DEAR), "sigmoid": (sigmoid, DEAR),
    "sinh": (op1("sinh"), DEAR), "cosh": (op1("cosh"), DEAR),
    "asin": (op1("asin"), DEAR), "acos": (op1("acos"), DEAR), "atan": (op1("atan"), DEAR),
    "relu": (lambda x: maximum(x, like(x, 0)), 1), "silu": (lambda x: mul(x, sigmoid(x)), DEAR),
    "square": (lambda x: mul(x, x), 1), "floor": (op1("floor"), 1), "ceil": (op1("ceil"), 1),
    "trunc": (op1("trunc"), 1), "round": (op1("round"), 1), "bitwise_not": (op1("not"), 1),
    "angle": (angle, 2), "erfc": (lambda x: sub(like(x, 1.0), erf(x)), DEAR),
}
# Compute type: the type of the operand; result i1.
PREDICATES: dict[str, Callable[[T], T]] = {
    "isnan": op1("isnan"), "isinf": op1("isinf"), "isfinite": isfinite,
    "logical_not": lambda x: unary("not", nonzero(x)),
}
BINARY: dict[str, tuple[Callable[[T, T], T], int]] = {
    "mul": (mul, 1), "maximum": (maximum, 1), "minimum": (minimum, 1),
    "atan2": (op2("atan2"), DEAR),
    "bitwise_and": (op2("and"), 1), "bitwise_or": (op2("or"), 1), "bitwise_xor": (op2("xor"), 1),
    "copysign": (op2("copysign"), 1), "bitwise_left_shift": (op2("shl"), 1),
    "bitwise_right_shift": (op2("shr"), 1),
}
# Compute type: the common type of the operands; result i1.
COMPARISONS: dict[str, Callable[[T, T], T]] = {
    **{name: op2(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "logical_and": lambda x, y: binary("and", nonzero(x), nonzero(y)),
    "logical_or": lambda x, y: binary("or", nonzero(x), nonzero(y)),
    "logical_xor": lambda x, y: binary("ne", nonzero(x), nonzero(y)),
}
# fmt: on


def _unary_rule(fn: Callable[[T], T], cost: int) -> Rule:
    def rule(cx: Context, x: Stage, *rest: Any, **options: Any) -> Stage:
        return cx.pointwise(fn, [x], compute_dtype(cx.dtype()), cost=cost)

    return rule


def _binary_rule(fn: Callable[[T, T], T], cost: int) -> Rule:
    def rule(cx: Context, x: Any, y: Any) -> Stage:
        return cx.pointwise(fn, [x, y], compute_dtype(cx.dtype()), cost=cost)

    return rule


def _comparison_rule(fn: Callable[..., T]) -> Rule:
    def rule(cx: Context, *operands: Any) -> Stage:
        return cx.pointwise(fn, operands, operand_dtype(operands))

    return rule


_LONG: dict[str, DType] = {name: dtypes.by_name(long) for long, name in SHORT.items()}


def operand_dtype(operands: Sequence[Any]) -> str:
    """The compute type of operands promoted together (tensors, 0-d tensors, numbers)."""
    pairs: list[tuple[DType, int]] = []
    for x in operands:
        if isinstance(x, Stage):
            pairs.append((_LONG[x.dtype], len(x.shape)))
        else:
            pairs.append((dtypes.int64 if isinstance(x, Expr) else scalar_dtype(x), NUMBER))
    return compute_dtype(short(result_type_of(pairs)))


for _name, (_unary, _cost) in UNARY.items():
    lowers(f"aten::{_name}")(_unary_rule(_unary, _cost))
for _name, (_binary, _cost) in BINARY.items():
    lowers(f"aten::{_name}")(_binary_rule(_binary, _cost))
_to_bool: dict[str, Callable[..., T]] = {**PREDICATES, **COMPARISONS}
for _name, _predicate in _to_bool.items():
    lowers(f"aten::{_name}")(_comparison_rule(_predicate))


# ---------------------------------------------------------------- rules with options


@lowers("aten::add")
def add_rule(cx: Context, x: Any, y: Any, alpha: Any = 1) -> Stage:
    """x + alpha*y."""
    return cx.pointwise(lambda a, c: add(a, scaled(c, alpha)), [x, y], compute_dtype(cx.dtype()))


@lowers("aten::sub")
def sub_rule(cx: Context, x: Any, y: Any, alpha: Any = 1) -> Stage:
    """x - alpha*y."""
    return cx.pointwise(lambda a, c: sub(a, scaled(c, alpha)), [x, y], compute_dtype(cx.dtype()))


@lowers("aten::rsub")
def rsub_rule(cx: Context, x: Any, y: Any, alpha: Any = 1) -> Stage:
    """y - alpha*x."""
    return cx.pointwise(lambda a, c: sub(c, scaled(a, alpha)), [x, y], compute_dtype(cx.dtype()))


@lowers("aten::div")
def div_rule(cx: Context, x: Any, y: Any, rounding_mode: str | None = None) -> Stage:
    """x / y, rounded as asked."""
    return cx.pointwise(rounding_div(rounding_mode), [x, y], compute_dtype(cx.dtype()), cost=3)


def _division_rule(name: str) -> Rule:
    """Integers only by numbers that are not 0: by 0 is an error, which kernels do not raise."""

    def rule(cx: Context, x: Any, y: Any) -> Stage:
        dtype = compute_dtype(cx.dtype())
        if not is_float(dtype) and (isinstance(y, Stage | Expr) or y == 0):
            raise Unsupported("integers divided by what may be 0")
        return cx.pointwise(op2(name), [x, y], dtype, cost=3)

    return rule


for _name, _rounded in (("floor_divide", "floordiv"), ("remainder", "mod"), ("fmod", "fmod")):
    lowers(f"aten::{_name}")(_division_rule(_rounded))


@lowers("aten::pow")
def pow_rule(cx: Context, x: Any, y: Any) -> Stage:
    """x ** y with tensors or numbers on either side."""
    dtype = compute_dtype(cx.dtype())
    if not isinstance(y, Stage | Expr):
        cheap = y in (0.5, -0.5, 1, 2, 3, -1)
        return cx.pointwise(lambda a: power(a, y), [x], dtype, cost=2 if cheap else 2 * DEAR)
    return cx.pointwise(to_power, [x, y], dtype, cost=2 * DEAR)


@lowers("aten::gelu")
def gelu_rule(cx: Context, x: Stage, approximate: str = "none") -> Stage:
    """gelu, exact or by tanh."""
    return cx.pointwise(
        lambda a: gelu(a, approximate), [x], compute_dtype(cx.dtype()), cost=DEAR + 4
    )


@lowers("aten::gelu_backward")
def gelu_backward_rule(cx: Context, g: Stage, x: Stage, approximate: str = "none") -> Stage:
    """Derivative of gelu times g."""
    dtype = compute_dtype(cx.dtype())
    return cx.pointwise(lambda a, c: gelu_backward(a, c, approximate), [g, x], dtype, cost=2 * DEAR)


@lowers("aten::threshold_backward")
def threshold_backward_rule(cx: Context, g: Stage, x: Stage, threshold: Any) -> Stage:
    """g where x > threshold, else 0 (a NaN in x lets g through)."""
    dtype = compute_dtype(cx.dtype())
    return cx.pointwise(
        lambda a, c: select(binary("le", c, like(c, threshold)), like(a, 0), a), [g, x], dtype
    )


@lowers("aten::clamp", "aten::clip")
def clamp_rule(cx: Context, x: Stage, low: Any = None, high: Any = None) -> Stage:
    """clamp with bounds that are tensors, numbers or absent."""
    present = [bound for bound in (low, high) if bound is not None]

    def fn(a: T, *bounds: T) -> T:
        rest = list(bounds)
        lower = rest.pop(0) if low is not None else None
        return clamp(a, lower, rest.pop(0) if high is not None else None)

    return cx.pointwise(fn, [x, *present], compute_dtype(cx.dtype()))


@lowers("aten::clamp_min")
def clamp_min_rule(cx: Context, x: Stage, low: Any) -> Stage:
    """max(x, low)."""
    return cx.pointwise(maximum, [x, low], compute_dtype(cx.dtype()))


@lowers("aten::clamp_max")
def clamp_max_rule(cx: Context, x: Stage, high: Any) -> Stage:
    """min(x, high)."""
    return cx.pointwise(minimum, [x, high], compute_dtype(cx.dtype()))


@lowers(
    "aten::where.self", "aten::where.ScalarSelf", "aten::where.ScalarOther", "aten::where.Scalar"
)
def where_rule(cx: Context, condition: Stage, x: Any, y: Any) -> Stage:
    """x where the condition holds, else y."""
    dtype = cx.dtype()

    def fn(c: T, a: T, d: T) -> T:
        return select(nonzero(c), cast(a, dtype), cast(d, dtype))

    return mixed(cx, fn, [condition, x, y], [condition.dtype, dtype, dtype])


@lowers("aten::masked_fill")
def masked_fill_rule(cx: Context, x: Stage, mask: Stage, value: Any) -> Stage:
    """value where the mask holds, else x."""
    dtype = cx.dtype()
    return mixed(cx, lambda m, v, a: select(m, v, a), [mask, value, x], ["i1", dtype, dtype])


def mixed(
    cx: Context,
    fn: Callable[..., T],
    operands: Sequence[Any],
    types: Sequence[str],
    *,
    cost: int = 1,
) -> Stage:
    """A pointwise result whose operands have types of their own."""
    result = cx.dtype()
    tensors = [x for x in operands if isinstance(x, Stage)]
    return cx.result(
        tensors,
        lambda read, index: cast(
            fn(*(operand_term(read, index, x, t) for x, t in zip(operands, types))), result
        ),
        cost=cost,
    )


@lowers("aten::_to_copy", "aten::to")
def to_copy_rule(cx: Context, x: Stage, *rest: Any, **options: Any) -> Stage:
    """Conversion of the element type, with the roundings that are asked for."""
    dtype = cx.dtype()
    return cx.result([x], lambda read, i: kept(cast(kept(read(x, i)), dtype)), cost=0)


@lowers("aten::clone", "aten::contiguous", "aten::positive")
def clone_rule(cx: Context, x: Stage, *rest: Any, **options: Any) -> Stage:
    """The same elements in memory of their own."""
    stage = cx.pointwise(lambda a: a, [x], x.dtype, cost=0)
    stage.is_copy = True
    return stage


@lowers("aten::copy")
def copy_rule(cx: Context, x: Stage, source: Stage, non_blocking: bool = False) -> Stage:
    """The values of `source` with the type and shape of x."""
    return mixed(cx, lambda a: a, [source], [source.dtype], cost=0)


@lowers("aten::lerp")
def lerp_rule(cx: Context, x: Stage, end: Stage, weight: Any) -> Stage:
    """x + weight*(end - x)."""

    def fn(a: T, c: T, w: T) -> T:
        near = add(a, mul(w, sub(c, a)))
        far = sub(c, mul(sub(c, a), sub(like(w, 1.0), w)))
        return select(binary("lt", unary("abs", w), like(w, 0.5)), near, far)

    return cx.pointwise(fn, [x, end, weight], compute_dtype(cx.dtype()), cost=3)


@lowers("aten::addcmul")
def addcmul_rule(cx: Context, x: Any, y: Any, z: Any, value: Any = 1) -> Stage:
    """x + value*y*z."""
    return cx.pointwise(
        lambda a, c, d: add(a, mul(scaled(c, value), d)),
        [x, y, z],
        compute_dtype(cx.dtype()),
        cost=2,
    )


@lowers("aten::addcdiv")
def addcdiv_rule(cx: Context, x: Any, y: Any, z: Any, value: Any = 1) -> Stage:
    """x + value*y/z."""
    return cx.pointwise(
        lambda a, c, d: add(a, scaled(div(c, d), value)),
        [x, y, z],
        compute_dtype(cx.dtype()),
        cost=4,
    )
