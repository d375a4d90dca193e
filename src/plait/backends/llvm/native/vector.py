"""SIMD values: typed operations over a fixed number of lanes, written as Python arithmetic.

A `Space` is an IR builder with a number of lanes; a `Value` is one SSA value in it, of an element
type of the loop IR (f32, i64, i1, ...). With one lane the values are plain scalars, so a formula
serves both. Owns how element types, constants and fast-math flags appear in LLVM IR; must not
know terms or kernels.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

__all__ = [
    "BITS",
    "RELAXED",
    "Space",
    "Value",
    "element_type",
    "horner",
    "memory_type",
    "paired",
    "suffix",
]

BITS = {
    "i1": 1, "i8": 8, "u8": 8, "i16": 16, "u16": 16, "i32": 32, "u32": 32, "i64": 64, "u64": 64,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64,
}  # fmt: skip

RELAXED = ("nsz", "contract")
"""Flags of ordinary arithmetic. Never nnan or ninf: NaN and infinities behave as in eager. Sums are
reassociated by emission alone, where it splits a reduction over lanes."""

_FLOATS: dict[str, Any] = {"f16": ir.HalfType(), "f32": ir.FloatType(), "f64": ir.DoubleType()}
_INTEGER_OF = {"f16": "i16", "f32": "i32", "f64": "i64"}
_FLOAT_OF = {"i16": "f16", "i32": "f32", "i64": "f64", "u32": "f32", "u64": "f64"}


def element_type(dtype: str) -> Any:
    """LLVM type of one element in a register (bfloat16 is held as its 16 bits)."""
    return _FLOATS.get(dtype) or ir.IntType(BITS[dtype])


def memory_type(dtype: str) -> Any:
    """LLVM type of one element in memory: booleans take a byte."""
    return ir.IntType(8) if dtype == "i1" else element_type(dtype)


@functools.cache
def vector_type(dtype: str, lanes: int) -> Any:
    """LLVM type of `lanes` elements; the element type itself for one lane."""
    element = element_type(dtype)
    return element if lanes == 1 else ir.VectorType(element, lanes)


class _Text(ir.FormattedConstant):  # type: ignore[misc]
    """A constant in LLVM's own notation (llvmlite would take the text of a vector apart)."""

    def __init__(self, kind: Any, text: str) -> None:
        self.type = kind
        self.constant = text


@functools.lru_cache(maxsize=4096)
def _constant(dtype: str, lanes: int, key: object, value: Any) -> Any:
    element = element_type(dtype)
    if dtype not in _FLOATS:
        value = int(value) & ((1 << BITS[dtype]) - 1)
    elif dtype == "f16":
        value = struct.unpack("e", struct.pack("e", value))[0]
    scalar = ir.Constant(element, value)
    if lanes == 1:
        return scalar
    return _Text(ir.VectorType(element, lanes), f"splat ({scalar})")


def suffix(kind: Any) -> str:
    """How overloaded intrinsics name a type: f32, v8f32, p0."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{suffix(kind.element)}"
    if isinstance(kind, ir.PointerType):
        return "p0"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return {"half": "f16", "float": "f32", "double": "f64"}[str(kind)]


class Space:
    """A place to emit: builder, module and number of lanes. `flags` apply to float arithmetic."""

    __slots__ = ("builder", "flags", "lanes", "module")

    def __init__(self, builder: Any, lanes: int, flags: tuple[str, ...] = ()) -> None:
        self.builder = builder
        self.module = builder.module
        self.lanes = lanes
        self.flags = flags

    def relaxed(self) -> Space:
        """The same place with the flags of ordinary arithmetic."""
        return Space(self.builder, self.lanes, RELAXED)

    def strict(self) -> Space:
        """The same place without flags: IEEE arithmetic as written."""
        return Space(self.builder, self.lanes)

    def with_lanes(self, lanes: int) -> Space:
        """The same place with another number of lanes."""
        return Space(self.builder, lanes, self.flags)

    def type(self, dtype: str) -> Any:
        """LLVM type of a value of this space."""
        return vector_type(dtype, self.lanes)

    def value(self, raw: Any, dtype: str) -> Value:
        """Name an LLVM value of this space's width."""
        return Value(self, raw, dtype)

    def const(self, dtype: str, number: Any) -> Value:
        """The same number in every lane."""
        key = struct.pack("d", number) if dtype in _FLOATS else int(number)
        return Value(self, _constant(dtype, self.lanes, key, number), dtype)

    def splat(self, scalar: Any, dtype: str) -> Value:
        """A scalar LLVM value in every lane."""
        if self.lanes == 1:
            return Value(self, scalar, dtype)
        kind = self.type(dtype)
        zero = ir.IntType(32)(0)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, zero)
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return Value(self, self.builder.shuffle_vector(one, one, order), dtype)

    def iota(self, dtype: str) -> Value:
        """0, 1, 2, ... by lane."""
        if self.lanes == 1:
            return self.const(dtype, 0)
        element = element_type(dtype)
        body = ", ".join(f"{element} {lane}" for lane in range(self.lanes))
        return Value(self, _Text(self.type(dtype), f"<{body}>"), dtype)

    def intrinsic(
        self,
        name: str,
        result: Any,
        args: Sequence[Any],
        over: Sequence[Any],
        flags: tuple[str, ...] = (),
    ) -> Any:
        """Call an overloaded intrinsic by name; `over` are the types in its suffix."""
        full = ".".join([name, *map(suffix, over)])
        function = self.module.globals.get(full)
        if function is None:
            kind = ir.FunctionType(result, [arg.type for arg in args])
            function = ir.Function(self.module, kind, full)
        return self.builder.call(function, args, fastmath=flags)


class Value:
    """One SSA value; arithmetic emits instructions. Numbers on either side become constants."""

    __slots__ = ("dtype", "raw", "space")

    def __init__(self, space: Space, raw: Any, dtype: str) -> None:
        self.space = space
        self.raw = raw
        self.dtype = dtype

    @property
    def is_float(self) -> bool:
        """Whether LLVM float instructions apply."""
        return self.dtype in _FLOATS

    @property
    def is_signed(self) -> bool:
        """Whether integer instructions treat it as signed."""
        return self.dtype[0] == "i" and self.dtype != "i1"

    def lift(self, other: Any) -> Any:
        """The LLVM value of an operand given as a Value or a number."""
        return other.raw if isinstance(other, Value) else self.space.const(self.dtype, other).raw

    def _new(self, raw: Any, dtype: str | None = None) -> Value:
        return Value(self.space, raw, dtype or self.dtype)

    def _arithmetic(self, name: str, left: Any, right: Any) -> Value:
        builder = self.space.builder
        if self.is_float:
            return self._new(getattr(builder, "f" + name)(left, right, flags=self.space.flags))
        return self._new(getattr(builder, name)(left, right))

    def __add__(self, other: Any) -> Value:
        return self._arithmetic("add", self.raw, self.lift(other))

    def __radd__(self, other: Any) -> Value:
        return self._arithmetic("add", self.lift(other), self.raw)

    def __sub__(self, other: Any) -> Value:
        return self._arithmetic("sub", self.raw, self.lift(other))

    def __rsub__(self, other: Any) -> Value:
        return self._arithmetic("sub", self.lift(other), self.raw)

    def __mul__(self, other: Any) -> Value:
        return self._arithmetic("mul", self.raw, self.lift(other))

    def __rmul__(self, other: Any) -> Value:
        return self._arithmetic("mul", self.lift(other), self.raw)

    def __truediv__(self, other: Any) -> Value:
        return self._arithmetic("div", self.raw, self.lift(other))

    def __rtruediv__(self, other: Any) -> Value:
        return self._arithmetic("div", self.lift(other), self.raw)

    def __neg__(self) -> Value:
        builder = self.space.builder
        return self._new(builder.fneg(self.raw) if self.is_float else builder.neg(self.raw))

    def __and__(self, other: Any) -> Value:
        return self._new(self.space.builder.and_(self.raw, self.lift(other)))

    def __or__(self, other: Any) -> Value:
        return self._new(self.space.builder.or_(self.raw, self.lift(other)))

    def __xor__(self, other: Any) -> Value:
        return self._new(self.space.builder.xor(self.raw, self.lift(other)))

    def __invert__(self) -> Value:
        return self ^ -1

    def __lshift__(self, other: Any) -> Value:
        return self._new(self.space.builder.shl(self.raw, self.lift(other)))

    def __rshift__(self, other: Any) -> Value:
        shift = self.space.builder.ashr if self.is_signed else self.space.builder.lshr
        return self._new(shift(self.raw, self.lift(other)))

    def logical_right(self, other: Any) -> Value:
        """Shift right, filling with zeros."""
        return self._new(self.space.builder.lshr(self.raw, self.lift(other)))

    def compare(self, how: str, other: Any) -> Value:
        """Compare by an LLVM operator (<, <=, ==, !=, >, >=); floats ordered, but != is true for
        NaN.
        """
        builder, right = self.space.builder, self.lift(other)
        if self.is_float:
            kind = builder.fcmp_unordered if how == "!=" else builder.fcmp_ordered
        else:
            kind = builder.icmp_signed if self.is_signed else builder.icmp_unsigned
        return self._new(kind(how, self.raw, right), "i1")

    def lt(self, other: Any) -> Value:
        """self < other, false for NaN."""
        return self.compare("<", other)

    def gt(self, other: Any) -> Value:
        """self > other, false for NaN."""
        return self.compare(">", other)

    def ge(self, other: Any) -> Value:
        """self >= other, false for NaN."""
        return self.compare(">=", other)

    def eq(self, other: Any) -> Value:
        """self == other, false for NaN."""
        return self.compare("==", other)

    def ne(self, other: Any) -> Value:
        """self != other, true for NaN."""
        return self.compare("!=", other)

    def is_nan(self) -> Value:
        """Lanes that hold NaN."""
        return self._new(self.space.builder.fcmp_unordered("uno", self.raw, self.raw), "i1")

    def where(self, if_true: Any, if_false: Any) -> Value:
        """Select by lane; self is i1. At least one choice is a Value."""
        model = if_true if isinstance(if_true, Value) else if_false
        raw = self.space.builder.select(self.raw, model.lift(if_true), model.lift(if_false))
        return self._new(raw, model.dtype)

    def at_least(self, low: Any) -> Value:
        """max(self, low) keeping NaN: one instruction."""
        return self.lt(low).where(self.space.const(self.dtype, low), self)

    def at_most(self, high: Any) -> Value:
        """min(self, high) keeping NaN: one instruction."""
        return self.gt(high).where(self.space.const(self.dtype, high), self)

    def bits(self) -> Value:
        """The same bits as a signed integer."""
        dtype = _INTEGER_OF[self.dtype]
        return self._new(self.space.builder.bitcast(self.raw, self.space.type(dtype)), dtype)

    def as_float(self) -> Value:
        """The same bits as a float."""
        dtype = _FLOAT_OF[self.dtype]
        return self._new(self.space.builder.bitcast(self.raw, self.space.type(dtype)), dtype)

    def call(self, name: str, *others: Any) -> Value:
        """An intrinsic over values of this type, such as llvm.sqrt."""
        kind = self.raw.type
        args = [self.raw, *(self.lift(other) for other in others)]
        return self._new(self.space.intrinsic(name, kind, args, [kind]))

    def abs(self) -> Value:
        """Magnitude of a float."""
        return self.call("llvm.fabs")

    def sqrt(self) -> Value:
        """IEEE square root."""
        return self.call("llvm.sqrt")

    def rint(self) -> Value:
        """Nearest integer, ties to even."""
        return self.call("llvm.rint")

    def copysign(self, sign: Any) -> Value:
        """This magnitude with the sign of another float."""
        return self.call("llvm.copysign", sign)

    def fma(self, factor: Any, addend: Any) -> Value:
        """self*factor + addend, rounded once."""
        return self.call("llvm.fma", factor, addend)

    def cast_float(self, dtype: str) -> Value:
        """f32 <-> f64."""
        if dtype == self.dtype:
            return self
        wider = BITS[dtype] > BITS[self.dtype]
        convert = self.space.builder.fpext if wider else self.space.builder.fptrunc
        return self._new(convert(self.raw, self.space.type(dtype)), dtype)

    def any_lane(self) -> Any:
        """Scalar i1: whether any lane of an i1 value is set."""
        lanes = self.space.lanes
        if lanes == 1:
            return self.raw
        word = ir.IntType(lanes)
        return self.space.builder.icmp_unsigned(
            "!=", self.space.builder.bitcast(self.raw, word), word(0)
        )


def horner(x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial with these coefficients, constant first, by fused multiply-adds."""
    total = x.space.const(x.dtype, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total.fma(x, coefficient)
    return total


def paired(x: Value, square: Value, coefficients: Sequence[float]) -> Value:
    """The same polynomial as pairs in x combined by Horner's rule in x**2: half the waiting."""
    pairs = [x.fma(high, low) for low, high in zip(coefficients[::2], coefficients[1::2])]
    if len(coefficients) % 2:
        pairs.append(x.space.const(x.dtype, coefficients[-1]))
    total = pairs.pop()
    while pairs:
        total = total.fma(square, pairs.pop())
    return total
