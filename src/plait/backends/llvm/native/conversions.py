"""Conversions between element types of values in registers, with the rounding of each.

Halves go through f32 and round to nearest even; a NaN stays one. Where the processor has no
instructions for float16, its conversions are integer arithmetic, so that no library is called.
Must not know terms or memory.
"""

from __future__ import annotations

from plait.backends.llvm.loop.terms import is_half
from plait.backends.llvm.native.target import host
from plait.backends.llvm.native.vector import BITS, Value

__all__ = ["bitcast", "convert"]


def convert(value: Value, dtype: str) -> Value:
    """The cast operation: numbers convert as in C, booleans are 0 and 1, anything not 0 is true."""
    if value.dtype == dtype:
        return value
    if is_half(value.dtype):
        return convert(_from_half(value), dtype)
    if dtype == "i1":
        return value.ne(0)
    if is_half(dtype):
        single = _to_odd_single(value) if value.dtype == "f64" else convert(value, "f32")
        return _to_half(single, dtype)
    if value.is_float:
        return value.cast_float(dtype) if dtype in ("f32", "f64") else _to_integer(value, dtype)
    return _from_integer(value, dtype) if dtype in ("f32", "f64") else _resize(value, dtype)


def bitcast(value: Value, dtype: str) -> Value:
    """The same bits as another type of that width."""
    space, raw = value.space, value.raw
    if raw.type != space.type(dtype):
        raw = space.builder.bitcast(raw, space.type(dtype))
    return space.value(raw, dtype)


# Integers ----------------------------------------------------------------------------------------


def _to_integer(value: Value, dtype: str) -> Value:
    """Truncate. Narrow types take the low bits of i32.

    What no i32 or i64 holds, NaN too, becomes their least number; unsigned types of those widths
    subtract half their range first where that makes it fit.
    """
    if dtype not in ("u32", "u64"):
        via = "i64" if dtype == "i64" else "i32"
        return _resize(_truncated(value, via), dtype)
    via, half = dtype.replace("u", "i"), 2.0 ** (BITS[dtype] - 1)
    is_large = value.ge(half)
    whole = _truncated(is_large.where(value - half, value), via)
    flipped = is_large.where(whole ^ -(1 << (BITS[dtype] - 1)), whole)
    return value.space.value(flipped.raw, dtype)


def _truncated(value: Value, dtype: str) -> Value:
    space = value.space
    return space.value(space.builder.fptosi(value.raw, space.type(dtype)), dtype)


def _from_integer(value: Value, dtype: str) -> Value:
    builder, space = value.space.builder, value.space
    instruction = builder.sitofp if value.is_signed else builder.uitofp
    return space.value(instruction(value.raw, space.type(dtype)), dtype)


def _resize(value: Value, dtype: str) -> Value:
    builder, kind = value.space.builder, value.space.type(dtype)
    if BITS[dtype] < BITS[value.dtype]:
        raw = builder.trunc(value.raw, kind)
    elif BITS[dtype] > BITS[value.dtype]:
        raw = (builder.sext if value.is_signed else builder.zext)(value.raw, kind)
    else:
        raw = value.raw
    return value.space.value(raw, dtype)


# Half precision ----------------------------------------------------------------------------------


def _from_half(value: Value) -> Value:
    if value.dtype == "bf16":
        return (_resize(Value(value.space, value.raw, "u16"), "u32") << 16).as_float()
    if host().converts_halves:
        return value.cast_float("f32")
    return _float16_as_single(_resize(bitcast(value, "u16"), "u32"))


def _to_half(value: Value, dtype: str) -> Value:
    """f32 rounded to nearest even."""
    if dtype == "bf16":
        return Value(value.space, _resize(_bfloat16_bits(value), "u16").raw, "bf16")
    if host().converts_halves:
        return value.cast_float("f16")
    return bitcast(_resize(_float16_bits(value), "u16"), "f16")


def _bfloat16_bits(value: Value) -> Value:
    """The upper half of f32, rounded; u32."""
    bits = Value(value.space, value.bits().raw, "u32")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return value.is_nan().where(value.space.const("u32", 0x7FC0), rounded)


def _float16_as_single(bits: Value) -> Value:
    """The f32 that the bits of a float16 (in u32) stand for.

    Moved into place they are the number over 2**112, subnormal ones too, save infinity and NaN.
    """
    magnitude = bits & 0x7FFF
    scaled = (magnitude << 13).as_float() * 2.0**112
    word = Value(bits.space, scaled.bits().raw, "u32")
    word = magnitude.ge(0x7C00).where(word | 0x7F800000, word)
    return (word | ((bits & 0x8000) << 16)).as_float()


def _float16_bits(value: Value) -> Value:
    """The bits of f32 rounded to float16, in u32."""
    space = value.space
    bits = Value(space, value.bits().raw, "u32")
    magnitude = bits & 0x7FFFFFFF
    # Normal results: add just under half of the last place that stays, and one if that is odd.
    odd = (magnitude >> 13) & 1
    normal = (magnitude + (((15 - 127) << 23) + 0xFFF) + odd) >> 13
    # Subnormal results: adding 0.5 leaves the rounded multiple of 2**-24 in the low bits.
    moved = magnitude.as_float() + 0.5
    subnormal = Value(space, moved.bits().raw, "u32") - 0x3F000000
    result = magnitude.lt(113 << 23).where(subnormal, normal)
    result = magnitude.ge((127 + 16) << 23).where(space.const("u32", 0x7C00), result)
    result = magnitude.gt(0x7F800000).where(space.const("u32", 0x7E00), result)
    return result | ((bits & 0x80000000) >> 16)


def _to_odd_single(value: Value) -> Value:
    """f64 to f32 rounded to odd, so that rounding once more to half precision is right."""
    single = value.cast_float("f32")
    back = single.cast_float("f64")
    bits = single.bits()
    over = back.abs().gt(value.abs())
    truncated = over.where(bits - 1, bits)
    inexact = back.lt(value) | back.gt(value)
    return inexact.where(truncated | 1, bits).as_float()
