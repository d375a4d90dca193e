"""Loads and stores of kernels: contiguous vectors, splats, strided and computed places, with masks.

Owns the layout of elements in memory (a boolean is a byte) and run-time bounds checks, which set
the status word. Must not know loops.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir

from plait.backends.llvm.loop.kernel import Store
from plait.backends.llvm.loop.terms import GatherDim
from plait.backends.llvm.native.emit_index import (
    I64,
    Frame,
    Place,
    emit_expr,
    emit_scalar,
    lane_stride,
)
from plait.backends.llvm.native.emit_ops import apply
from plait.backends.llvm.native.vector import BITS, Space, Value, memory_type
from plait.symbolic.expr import Expr, as_int, const

__all__ = ["Memory", "total", "widen"]

I32 = ir.IntType(32)
POINTER = ir.PointerType()


def widen(value: Value, space: Space) -> Value:
    """A value in `space`: a scalar is put in every lane."""
    if value.space.lanes == space.lanes:
        return Value(space, value.raw, value.dtype)
    assert value.space.lanes == 1
    return space.splat(value.raw, value.dtype)


def total(old: Value, value: Value) -> Value:
    """What a store that adds writes; booleans are joined."""
    return apply("or" if value.dtype == "i1" else "add", [old, value], value.dtype)


def _both(masks: list[Value]) -> Value | None:
    """All masks at once; scalars meet scalars, vectors vectors."""
    if not masks:
        return None
    space = max((mask.space for mask in masks), key=lambda space: space.lanes)
    first, *others = (widen(mask, space) for mask in masks)
    for mask in others:
        first = first & mask
    return first


def pair_of(offset: Expr) -> tuple[Expr, int] | None:
    """(even offset of the pair, which of its two) where that is known."""
    number = offset.terms.get((), 0) % 2
    is_even = all(coefficient % 2 == 0 for key, coefficient in offset.terms.items() if key)
    return (offset - number, number) if is_even else None


class Memory:
    """The buffers of one kernel and its status word."""

    def __init__(
        self,
        builder: Any,
        buffers: list[Any],
        dtypes: list[str],
        status: Any,
        pairs: frozenset[int] = frozenset(),
    ) -> None:
        self.builder = builder
        self.buffers = buffers
        self.dtypes = dtypes
        self.status = status
        self.pairs = pairs

    # Addresses -----------------------------------------------------------------------------------

    def address(self, buffer: int, offset: Any) -> Any:
        """Pointer to an element at a scalar offset."""
        element = memory_type(self.dtypes[buffer])
        return self.builder.gep(self.buffers[buffer], [offset], source_etype=element)

    def addresses(self, buffer: int, offsets: Value) -> Any:
        """Vector of pointers to elements at offsets by lane."""
        element = memory_type(self.dtypes[buffer])
        pointers = self.builder.gep(self.buffers[buffer], [offsets.raw], source_etype=element)
        pointers.type = ir.VectorType(POINTER, offsets.space.lanes)
        return pointers

    def _memory_vector(self, dtype: str, lanes: int) -> Any:
        element = memory_type(dtype)
        return element if lanes == 1 else ir.VectorType(element, lanes)

    def _from_memory(self, raw: Any, dtype: str, space: Space) -> Value:
        if dtype != "i1":
            return space.value(raw, dtype)
        return space.value(raw, "u8").ne(0)

    def _to_memory(self, value: Value) -> Any:
        if value.dtype != "i1":
            return value.raw
        return self.builder.zext(value.raw, self._memory_vector("i1", value.space.lanes))

    @staticmethod
    def _bytes(dtype: str) -> int:
        return max(BITS[dtype] // 8, 1)

    # Plain loads and stores ----------------------------------------------------------------------

    def load(self, buffer: int, offset: Expr, frame: Frame, mask: Value | None) -> Value:
        """Element at `offset`; zero and unread where `mask` is false."""
        names = frozenset(free.name for free in offset.free_symbols)
        if not frame.varies(names) and (mask is None or mask.space.lanes == 1):
            return self._load_scalar(buffer, emit_scalar(offset, frame), frame, mask)
        stride = lane_stride(offset, frame)
        if stride is not None and as_int(stride) == 1:
            where = self.address(buffer, emit_scalar(offset, frame))
            return self.load_vector(where, self.dtypes[buffer], frame.space, self._all(frame, mask))
        if buffer in self.pairs and stride is not None and as_int(stride) == 2:
            first = pair_of(offset)
            if first is not None:
                return self._load_part(buffer, first, frame, self._all(frame, mask))
        if stride is not None and mask is None and frame.mask is None:
            return self._load_strided(buffer, offset, stride, frame)
        offsets = widen(emit_expr(offset, frame), frame.space)
        return self.gather(buffer, offsets, self._all(frame, mask))

    def _load_strided(self, buffer: int, offset: Expr, stride: Expr, frame: Frame) -> Value:
        """Elements a fixed step apart, one by one: better code than a gather gives."""
        builder, dtype = self.builder, self.dtypes[buffer]
        kind = self._memory_vector(dtype, frame.lanes)
        first = self.address(buffer, emit_scalar(offset, frame))
        result = ir.Constant(kind, ir.Undefined)
        for lane in range(frame.lanes):
            step = emit_scalar(stride * lane, frame)
            where = builder.gep(first, [step], source_etype=memory_type(dtype))
            element = builder.load(where, typ=memory_type(dtype))
            result = builder.insert_element(result, element, I32(lane))
        return self._from_memory(result, dtype, frame.space)

    def _load_part(
        self, buffer: int, first: tuple[Expr, int], frame: Frame, mask: Value | None
    ) -> Value:
        """The real or the imaginary parts of neighbours: pairs are loaded whole and taken apart."""
        dtype, space, (offset, number) = self.dtypes[buffer], frame.space, first
        wide = space.with_lanes(2 * space.lanes)
        where = self.address(buffer, emit_scalar(offset, frame))
        both = self.load_vector(where, dtype, wide, None if mask is None else self._twice(mask))
        return space.value(self._shuffled(both.raw, range(number, wide.lanes, 2)), dtype)

    def _shuffled(self, raw: Any, order: Iterable[int], other: Any = None) -> Any:
        """Elements of one vector, or of two, in an order."""
        kind = ir.VectorType(I32, len(list(order)))
        places = ir.Constant(kind, [I32(place) for place in order])
        return self.builder.shuffle_vector(raw, raw if other is None else other, places)

    def _twice(self, mask: Value) -> Value:
        """A mask of elements as one of their parts."""
        lanes = mask.space.lanes
        order = [lane // 2 for lane in range(2 * lanes)]
        wide = mask.space.with_lanes(2 * lanes)
        return wide.value(self._shuffled(mask.raw, order), "i1")

    def store_pair(self, buffer: int, offset: Expr, parts: list[Value], frame: Frame) -> None:
        """Store complex numbers in neighbouring lanes from `offset` on, put together here."""
        real, imag = (widen(part, frame.space) for part in parts)
        lanes = frame.space.lanes
        order = [lane // 2 + lanes * (lane % 2) for lane in range(2 * lanes)]
        wide = frame.space.with_lanes(2 * lanes)
        both = wide.value(self._shuffled(real.raw, order, imag.raw), real.dtype)
        where = self.address(buffer, emit_scalar(offset, frame))
        self.store_vector(where, both, None if frame.mask is None else self._twice(frame.mask))

    def begins_pairs(self, store: Store, after: Store, frame: Frame) -> bool:
        """Whether two stores write the parts of the same complex numbers, lane after lane."""
        if store.buffer != after.buffer or store.buffer not in self.pairs:
            return False
        if store.indices or after.indices or "add" in (store.kind, after.kind):
            return False
        stride, first = lane_stride(store.offset, frame), pair_of(store.offset)
        is_next = after.offset - store.offset is const(1)
        return is_next and first == (store.offset, 0) and stride is not None and as_int(stride) == 2

    def _all(self, frame: Frame, mask: Value | None) -> Value | None:
        """The lanes that exist and that the mask allows."""
        if mask is None or frame.mask is None:
            both = mask if frame.mask is None else frame.mask
            return None if both is None else widen(both, frame.space)
        return widen(mask, frame.space) & frame.mask

    def _load_scalar(self, buffer: int, offset: Any, frame: Frame, mask: Value | None) -> Value:
        dtype, scalar = self.dtypes[buffer], frame.space.with_lanes(1)
        where = self.address(buffer, offset)
        kind = memory_type(dtype)
        if mask is None:
            raw = self.builder.load(where, typ=kind)
            return self._from_memory(raw, dtype, scalar)
        zero = self._zero_cell()
        chosen = self.builder.select(mask.raw, where, zero)
        return self._from_memory(self.builder.load(chosen, typ=kind), dtype, scalar)

    def _zero_cell(self) -> Any:
        """Address of a constant zero, for loads that must not happen."""
        module = self.builder.module
        cell = module.globals.get("plait_zero")
        if cell is None:
            cell = ir.GlobalVariable(module, I64, "plait_zero")
            cell.linkage, cell.global_constant, cell.initializer = "internal", True, I64(0)
        cell.type = POINTER  # llvmlite would keep the type of what it points to
        return cell

    def load_vector(self, where: Any, dtype: str, space: Space, mask: Value | None) -> Value:
        """A contiguous vector from an address."""
        kind = self._memory_vector(dtype, space.lanes)
        if mask is None:
            raw = self.builder.load(where, align=self._bytes(dtype), typ=kind)
        elif space.lanes == 1:
            chosen = self.builder.select(mask.raw, where, self._zero_cell())
            raw = self.builder.load(chosen, align=self._bytes(dtype), typ=kind)
        else:
            args = [where, I32(self._bytes(dtype)), mask.raw, ir.Constant(kind, None)]
            raw = space.intrinsic("llvm.masked.load", kind, args, [kind, POINTER])
        return self._from_memory(raw, dtype, space)

    def store_vector(self, where: Any, value: Value, mask: Value | None) -> None:
        """Store a contiguous vector at an address."""
        raw = self._to_memory(value)
        size = self._bytes(value.dtype)
        if mask is None:
            self.builder.store(raw, where, align=size)
        elif value.space.lanes == 1:
            with self.builder.if_then(mask.raw):
                self.builder.store(raw, where, align=size)
        else:
            args = [raw, where, I32(size), mask.raw]
            over = [raw.type, POINTER]
            value.space.intrinsic("llvm.masked.store", ir.VoidType(), args, over)

    def store(self, buffer: int, offset: Expr, value: Value, frame: Frame) -> None:
        """Store one element, or one in each lane of the frame."""
        if frame.vector is None:
            where = self.address(buffer, emit_scalar(offset, frame))
            self.store_vector(where, value, None)
            return
        value = widen(value, frame.space)
        stride = lane_stride(offset, frame)
        if stride is not None and as_int(stride) == 1:
            where = self.address(buffer, emit_scalar(offset, frame))
            self.store_vector(where, value, frame.mask)
        else:
            self.scatter(buffer, widen(emit_expr(offset, frame), frame.space), value, frame.mask)

    # Computed places -----------------------------------------------------------------------------

    def gather(self, buffer: int, offsets: Value, mask: Value | None) -> Value:
        """Elements at offsets by lane; zero where the mask is false."""
        dtype, space = self.dtypes[buffer], offsets.space
        if space.lanes == 1:
            return self.load_vector(self.address(buffer, offsets.raw), dtype, space, mask)
        kind = self._memory_vector(dtype, space.lanes)
        mask = space.const("i1", 1) if mask is None else mask
        pointers = self.addresses(buffer, offsets)
        args = [pointers, I32(self._bytes(dtype)), mask.raw, ir.Constant(kind, None)]
        raw = space.intrinsic("llvm.masked.gather", kind, args, [kind, pointers.type])
        return self._from_memory(raw, dtype, space)

    def scatter(self, buffer: int, offsets: Value, value: Value, mask: Value | None) -> None:
        """Store lane by lane, in order."""
        space = offsets.space
        if space.lanes == 1:
            self.store_vector(self.address(buffer, offsets.raw), value, mask)
            return
        raw = self._to_memory(value)
        mask = space.const("i1", 1) if mask is None else mask
        pointers = self.addresses(buffer, offsets)
        args = [raw, pointers, I32(self._bytes(value.dtype)), mask.raw]
        space.intrinsic("llvm.masked.scatter", ir.VoidType(), args, [raw.type, pointers.type])

    def load_moved(
        self, buffer: int, base: Expr, place: Place, frame: Frame, mask: Value | None
    ) -> Value:
        """Element at `base` moved by a computed offset; zero and unread where a mask is false."""
        stride = lane_stride(base, frame)
        varies = frame.varies(frozenset(free.name for free in base.free_symbols))
        masks = [m for m in (mask, place.readable) if m is not None]
        lanes = max(value.space.lanes for value in (place.offset, *masks))
        if lanes == 1 and varies and stride is not None and as_int(stride) == 1:
            first = self.builder.add(emit_scalar(base, frame), place.offset.raw)
            where = self.address(buffer, first)
            allowed = self._all(frame, _both(masks))
            return self.load_vector(where, self.dtypes[buffer], frame.space, allowed)
        space = frame.space if varies or lanes > 1 else frame.space.with_lanes(1)
        offsets = widen(emit_expr(base, frame), space) + widen(place.offset, space)
        allowed = _both([widen(m, space) for m in masks])
        if space.lanes > 1:
            allowed = self._all(frame, allowed)
        return self.gather(buffer, offsets, allowed)

    def checked(self, index: Value, dim: GatherDim, frame: Frame) -> tuple[Value, Value]:
        """(index after wrapping, whether it is in range) of one computed index."""
        size = widen(emit_expr(dim.size, frame), index.space)
        if dim.wraps:
            index = index.lt(0).where(index + size, index)
        unsigned = Value(index.space, index.raw, "u64")
        return index, unsigned.lt(Value(size.space, size.raw, "u64"))

    def store_computed(
        self, store: Store, indices: list[tuple[Value, GatherDim]], value: Value, frame: Frame
    ) -> None:
        """Set or add at offset + sum(index * stride), unless an index is out of range.

        The indices are the same in all lanes; a frame with lanes stores them side by side.
        """
        builder, scalar = self.builder, frame.space.with_lanes(1)
        offset = emit_scalar(store.offset, frame)
        allowed = scalar.const("i1", 1)
        for index, dim in indices:
            index, within = self.checked(apply("cast", [index], "i64"), dim, frame)
            allowed = allowed & within
            step = builder.mul(index.raw, emit_scalar(dim.stride, frame))
            offset = builder.add(offset, step)
        if store.check is not None:
            self.report(~allowed, store.check)
        with builder.if_then(allowed.raw):
            where = self.address(store.buffer, offset)
            value = widen(value, frame.space)
            if store.kind == "add":
                old = self.load_vector(where, value.dtype, frame.space, frame.mask)
                value = total(old, value)
            self.store_vector(where, value, frame.mask)

    def report(self, failed: Value, code: int) -> None:
        """Set the status to code + 1 if any lane failed and nothing failed before."""
        with self.builder.if_then(failed.any_lane(), likely=False):
            where = self.builder.gep(self.status, [I64(0)], source_etype=I64)
            where.type = I64.as_pointer()  # llvmlite's atomic store wants to know the type
            self.builder.store_atomic(I64(code + 1), where, "monotonic", 8)
