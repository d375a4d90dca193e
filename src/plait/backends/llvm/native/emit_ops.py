"""Pointwise operations of the loop IR as SIMD instructions: tables from operation to emitter.

Owns the meaning of every operation on values in registers; must not know memory, loops or kernels.
"""

from __future__ import annotations

from collections.abc import Callable

from plait.backends.llvm.loop.terms import is_half
from plait.backends.llvm.native.conversions import bitcast, convert
from plait.backends.llvm.native.mathfns import MATH, call_math
from plait.backends.llvm.native.vector import BITS, Value

__all__ = ["apply", "operation_cost"]

# Unary operations --------------------------------------------------------------------------------


def _absolute(x: Value) -> Value:
    if x.is_float:
        return x.abs()
    return x.lt(0).where(-x, x) if x.is_signed else x


def _sign(x: Value) -> Value:
    if not x.is_float and not x.is_signed:
        return x.ne(0).where(x.space.const(x.dtype, 1), 0)
    one = x.space.const(x.dtype, 1)
    return x.gt(0).where(one, x.lt(0).where(x.space.const(x.dtype, -1), 0))


def _rsqrt(x: Value) -> Value:
    return 1.0 / x.sqrt()


def _rounding(name: str) -> Callable[[Value], Value]:
    return lambda x: x.call(name) if x.is_float else x


def _is_infinite(x: Value) -> Value:
    return x.abs().eq(float("inf"))


def _negate(x: Value) -> Value:
    return -x


UNARY: dict[str, Callable[[Value], Value]] = {
    "neg": _negate, "abs": _absolute, "sign": _sign, "sqrt": Value.sqrt,
    "strict_sqrt": Value.sqrt, "rsqrt": _rsqrt, "recip": lambda x: 1.0 / x,
    "floor": _rounding("llvm.floor"), "ceil": _rounding("llvm.ceil"),
    "trunc": _rounding("llvm.trunc"), "round": _rounding("llvm.rint"), "not": Value.__invert__,
    "isnan": Value.is_nan, "isinf": _is_infinite, "opaque": lambda x: x,
}  # fmt: skip


# Binary operations -------------------------------------------------------------------------------


def _maximum(a: Value, b: Value) -> Value:
    return _extreme(a, b, "llvm.maximum", ">")


def _minimum(a: Value, b: Value) -> Value:
    return _extreme(a, b, "llvm.minimum", "<")


def _extreme(a: Value, b: Value, intrinsic: str, better: str) -> Value:
    if not a.is_float:
        return a.compare(better, b).where(a, b)
    kind = a.raw.type
    return a.space.value(
        a.space.intrinsic(intrinsic, kind, [a.raw, b.raw], [kind], ("nsz",)), a.dtype
    )


def _division(a: Value, b: Value) -> Value:
    return a / b if a.is_float else _truncated_division(a, b)


def _safe_divisor(a: Value, b: Value) -> Value:
    """b, with values that would trap replaced by one."""
    bad = b.eq(0)
    if a.is_signed:
        bad = bad | b.eq(-1)
    return bad.where(b.space.const(b.dtype, 1), b)


def _truncated_division(a: Value, b: Value) -> Value:
    """a / b rounded towards zero; zero where b is zero."""
    if a.is_float:
        return (a / b).call("llvm.trunc")
    builder, divisor = a.space.builder, _safe_divisor(a, b)
    divide = builder.sdiv if a.is_signed else builder.udiv
    quotient = a.space.value(divide(a.raw, divisor.raw), a.dtype)
    if a.is_signed:
        quotient = b.eq(-1).where(-a, quotient)
    return b.eq(0).where(a.space.const(a.dtype, 0), quotient)


def _floor_division(a: Value, b: Value) -> Value:
    if a.is_float:
        return _float_floor_division(a, b)
    quotient = _truncated_division(a, b)
    if not a.is_signed:
        return quotient
    below = (quotient * b).ne(a) & (a ^ b).lt(0) & b.ne(0)
    return below.where(quotient - 1, quotient)


def _float_floor_division(a: Value, b: Value) -> Value:
    """Python's floor division: from the exact remainder, so that it agrees with `mod`."""
    remainder = _float_remainder(a, b)
    adjust = remainder.ne(0) & (remainder.lt(0) ^ b.lt(0))
    quotient = (a - remainder) / b
    quotient = adjust.where(quotient - 1, quotient)
    nearest = quotient.call("llvm.floor")
    nearest = (quotient - nearest).gt(0.5).where(nearest + 1, nearest)
    nearest = quotient.eq(0).where(a.space.const(a.dtype, 0.0).copysign(a / b), nearest)
    return b.eq(0).where(a / b, nearest)


def _float_remainder(a: Value, b: Value) -> Value:
    """C's fmod, exact: through the frem instruction."""
    return a.space.value(a.space.builder.frem(a.raw, b.raw), a.dtype)


def _modulo(a: Value, b: Value) -> Value:
    """Remainder with the sign of the divisor."""
    if not a.is_float:
        return b.eq(0).where(a.space.const(a.dtype, 0), a - _floor_division(a, b) * b)
    remainder = _float_remainder(a, b)
    adjust = remainder.ne(0) & (remainder.lt(0) ^ b.lt(0))
    kept = adjust.where(remainder + b, remainder)
    return remainder.eq(0).where(remainder.copysign(b), kept)


def _truncated_modulo(a: Value, b: Value) -> Value:
    if a.is_float:
        return _float_remainder(a, b)
    return b.eq(0).where(a.space.const(a.dtype, 0), a - _truncated_division(a, b) * b)


def _power(a: Value, b: Value) -> Value:
    return call_math("pow", a, b) if a.is_float else _integer_power(a, b)


def _integer_power(base: Value, exponent: Value) -> Value:
    """By repeated squaring; negative exponents give 0, except of 1 and -1."""
    result = base.space.const(base.dtype, 1)
    square, bits = base, exponent
    for _ in range(BITS[base.dtype] - base.is_signed):
        result = (bits & 1).ne(0).where(result * square, result)
        bits, square = bits.logical_right(1), square * square
    if not base.is_signed:
        return result
    odd = (exponent & 1).ne(0)
    inverse = base.eq(1).where(base.space.const(base.dtype, 1), 0)
    inverse = base.eq(-1).where(odd.where(base.space.const(base.dtype, -1), 1), inverse)
    return exponent.lt(0).where(inverse, result)


def _comparison(how: str) -> Callable[[Value, Value], Value]:
    return lambda a, b: a.compare(how, b)


def _fits(amount: Value) -> Value:
    """Whether a shift by so much leaves bits of the number (negative ones do not)."""
    return Value(amount.space, amount.raw, "u" + amount.dtype[1:]).lt(BITS[amount.dtype])


def _shift_left(a: Value, b: Value) -> Value:
    return _fits(b).where(a << b, 0)


def _shift_right(a: Value, b: Value) -> Value:
    if not a.is_signed:
        return _fits(b).where(a >> b, 0)
    return a >> _fits(b).where(b, BITS[a.dtype] - 1)


BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "add": Value.__add__, "sub": Value.__sub__, "mul": Value.__mul__, "div": _division,
    "floordiv": _floor_division, "mod": _modulo, "fmod": _truncated_modulo,
    "truncdiv": _truncated_division, "max": _maximum, "min": _minimum, "pow": _power,
    "copysign": Value.copysign, "eq": _comparison("=="), "ne": _comparison("!="),
    "lt": _comparison("<"), "le": _comparison("<="), "gt": _comparison(">"),
    "ge": _comparison(">="), "and": Value.__and__, "or": Value.__or__, "xor": Value.__xor__,
    "shl": _shift_left, "shr": _shift_right, "strict_add": Value.__add__,
    "strict_sub": Value.__sub__, "strict_mul": Value.__mul__, "strict_div": _division,
}  # fmt: skip


def apply(op: str, args: list[Value], dtype: str, *, inline: bool = True) -> Value:
    """One operation on values of one space. `inline`: whether math functions are expanded here."""
    first = args[0]
    if op == "cast":
        return convert(first, dtype)
    if op == "bitcast":
        return bitcast(first, dtype)
    if op == "select":
        return first.where(args[1], args[2])
    if is_half(first.dtype):
        return _on_halves(op, args, dtype, inline)
    if op in MATH and first.is_float:
        return call_math(op, *args, inline=inline)
    if op == "fma":
        return first.fma(args[1], args[2])
    return _table_entry(op, args)


def _table_entry(op: str, args: list[Value]) -> Value:
    if op.startswith("strict_"):
        strict = [Value(arg.space.strict(), arg.raw, arg.dtype) for arg in args]
        result = UNARY[op](*strict) if len(args) == 1 else BINARY[op](*strict)
        return Value(args[0].space, result.raw, result.dtype)
    return UNARY[op](*args) if len(args) == 1 else BINARY[op](*args)


def _on_halves(op: str, args: list[Value], dtype: str, inline: bool) -> Value:
    """Half precision arithmetic: in f32, rounded after every operation; signs are bits."""
    if op in ("neg", "abs"):
        bits = bitcast(args[0], "u16")
        return bitcast(bits ^ 0x8000 if op == "neg" else bits & 0x7FFF, dtype)
    wide = [convert(arg, "f32") if is_half(arg.dtype) else arg for arg in args]
    result = apply(op, wide, "f32" if is_half(dtype) else dtype, inline=inline)
    return convert(result, dtype)


_COSTS = {
    "div": 6, "recip": 6, "sqrt": 6, "rsqrt": 10, "strict_div": 6, "strict_sqrt": 6, "exp": 16,
    "exp2": 16, "expm1": 18, "log": 28, "log1p": 30, "log2": 28, "erf": 22, "sin": 28, "cos": 28,
    "tan": 36, "tanh": 26, "sigmoid": 24, "pow": 120, "atan": 24, "asin": 30, "acos": 30,
    "atan2": 36, "sinh": 40, "cosh": 30, "philox": 100, "gather": 10, "floordiv": 20, "mod": 20,
    "fmod": 40, "truncdiv": 20, "const": 0, "index": 1,
}  # fmt: skip


def operation_cost(op: str) -> int:
    """Rough number of instructions of one operation on one vector."""
    return _COSTS.get(op, 1)
