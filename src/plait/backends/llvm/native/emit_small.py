"""Small matrix products as code of their own: what a BLAS call costs is more than their work.

    void product(ptr buffers {a, b, c}, ptr unused, ptr unused, i64 begin, i64 end)

over the matrices of a batch; every size and stride is a number of the code. Two forms:

- *outer*: rows of b are contiguous. A tile of c is a few rows by one or two vectors of columns;
  each step adds elements of a (whatever their strides) times a row of b.
- *inner*: rows of a and columns of b are contiguous, as in ``x @ weight.T``. A tile of c is a few
  rows by a few columns; each step adds a vector of products, lanes are summed at the end.

Sums run in an order that the sizes fix. Must not know plans or buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.emit import KERNEL_TYPE
from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.emit_memory import POINTER, Memory
from plait.backends.llvm.native.small import SmallProduct
from plait.backends.llvm.native.target import host
from plait.backends.llvm.native.vector import BITS, Space, Value, element_type

__all__ = ["emit_small"]

ROWS, VECTORS = 4, 2
"""Tile of the outer form: rows, vectors of columns."""
INNER_ROWS, INNER_COLUMNS = 2, 4


def emit_small(module: Any, product: SmallProduct, name: str) -> Any:
    """Add the function of a small product to a module."""
    function = ir.Function(module, KERNEL_TYPE, name)
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block())
    buffers, _, status, begin, end = function.args
    pointers = [
        builder.load(builder.gep(buffers, [I64(k)], source_etype=POINTER), typ=POINTER)
        for k in range(3)
    ]
    tiles = _Tiles(product, Memory(builder, [], [], status), pointers)
    _loop(builder, begin, end, 1, [], lambda item, _: tiles.matrix(item))
    builder.ret_void()
    return function


def _loop(
    builder: Any,
    start: Any,
    stop: Any,
    step: int,
    carried: list[Any],
    body: Callable[[Any, list[Any]], list[Any]],
) -> list[Any]:
    """for (i = start; i < stop; i += step), which runs at least once if anything is carried."""
    before = builder.block
    inner, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    if carried:
        builder.branch(inner)
    else:
        builder.cbranch(builder.icmp_signed("<", start, stop), inner, after)
    builder.position_at_end(inner)
    index = builder.phi(I64)
    index.add_incoming(start, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried):
        phi.add_incoming(value, before)
    results = body(index, list(values))
    following = builder.add(index, I64(step), flags=("nsw",))
    index.add_incoming(following, builder.block)
    for phi, value in zip(values, results):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, stop), inner, after)
    builder.position_at_end(after)
    return results


class _Tiles:
    """Emits one matrix of a product, tile by tile."""

    def __init__(self, product: SmallProduct, memory: Memory, pointers: list[Any]) -> None:
        self.product = product
        self.memory = memory
        self.builder = memory.builder
        self.pointers = pointers
        self.element = element_type(product.dtype)
        self.lanes = host().vector_bits // BITS[product.dtype]
        self.scalar = Space(self.builder, 1)

    def at(self, pointer: Any, offset: Any, stride: int) -> Any:
        """`pointer` moved by offset * stride elements; the offset is an i64 or an int."""
        if isinstance(offset, int):
            offset = I64(offset * stride)
        elif stride != 1:
            offset = self.builder.mul(offset, I64(stride))
        return self.builder.gep(pointer, [offset], source_etype=self.element)

    def matrix(self, item: Any) -> list[Any]:
        """Matrix number `item` of the batch."""
        p, builder = self.product, self.builder
        places = list(self.pointers)
        dims = list(enumerate(p.batch))
        for dim, size in reversed(dims):
            index = builder.urem(item, I64(size)) if dim else item
            places = [
                self.at(place, index, operand.batch[dim])
                for place, operand in zip(places, (p.a, p.b, p.c))
            ]
            item = builder.udiv(item, I64(size)) if dim else item
        a, b, c = places
        if p.form == "outer":
            self._blocks(
                p.n, VECTORS * self.lanes, lambda j, columns: self._panel(a, b, c, j, columns)
            )
        else:
            self._blocks(p.m, INNER_ROWS, lambda i, rows: self._strip(a, b, c, i, rows))
        return []

    def _blocks(self, size: int, step: int, body: Callable[[Any, int], None]) -> None:
        """body(start, length) for every block of at most `step`."""
        whole = size // step * step

        def block(index: Any, _: list[Any]) -> list[Any]:
            body(index, step)
            return []

        if whole > step:
            _loop(self.builder, I64(0), I64(whole), step, [], block)
        elif whole:
            body(0, step)
        if size > whole:
            body(whole, size - whole)

    def _mask(self, count: int) -> Value | None:
        """The first `count` lanes; None for all."""
        if count >= self.lanes:
            return None
        space, dtype = Space(self.builder, self.lanes), "i32"
        return space.iota(dtype).lt(count)

    def _load(self, where: Any, mask: Value | None) -> Value:
        return self.memory.load_vector(
            where, self.product.dtype, Space(self.builder, self.lanes), mask
        )

    def _zeros(self, count: int) -> list[Any]:
        kind = Space(self.builder, self.lanes).type(self.product.dtype)
        return [ir.Constant(kind, None)] * count

    # Outer form ----------------------------------------------------------------------------------

    def _panel(self, a: Any, b: Any, c: Any, column: Any, columns: int) -> None:
        """All rows of some columns."""
        p = self.product
        b, c = self.at(b, column, p.b.column), self.at(c, column, p.c.column)
        masks = [self._mask(columns - k) for k in range(0, columns, self.lanes)]

        def rows(start: Any, count: int) -> None:
            self._outer(self.at(a, start, p.a.row), b, self.at(c, start, p.c.row), count, masks)

        self._blocks(p.m, ROWS, rows)

    def _outer(self, a: Any, b: Any, c: Any, rows: int, masks: list[Value | None]) -> None:
        p, space = self.product, Space(self.builder, self.lanes)

        def step(index: Any, sums: list[Any]) -> list[Any]:
            row = self.at(b, index, p.b.row)
            right = [self._load(self.at(row, k * self.lanes, 1), m) for k, m in enumerate(masks)]
            added = []
            for i in range(rows):
                where = self.at(self.at(a, i, p.a.row), index, p.a.column)
                left = space.splat(self.builder.load(where, typ=self.element), p.dtype)
                for k, vector in enumerate(right):
                    before = space.value(sums[i * len(right) + k], p.dtype)
                    added.append(left.fma(vector, before).raw)
            return added

        sums = _loop(self.builder, I64(0), I64(p.k), 1, self._zeros(rows * len(masks)), step)
        for i in range(rows):
            for k, mask in enumerate(masks):
                where = self.at(self.at(c, i, p.c.row), k * self.lanes, 1)
                value = space.value(sums[i * len(masks) + k], p.dtype)
                old = self._load(where, mask) if p.beta else None
                self.memory.store_vector(where, self._scaled(value, old), mask)

    def _scaled(self, value: Value, old: Value | None) -> Value:
        """alpha * value + beta * old."""
        if self.product.alpha != 1:
            value = value * self.product.alpha
        return value if old is None else old * self.product.beta + value

    # Inner form ----------------------------------------------------------------------------------

    def _strip(self, a: Any, b: Any, c: Any, row: Any, rows: int) -> None:
        """All columns of some rows."""
        p = self.product
        a, c = self.at(a, row, p.a.row), self.at(c, row, p.c.row)

        def columns(start: Any, count: int) -> None:
            where = self.at(c, start, p.c.column)
            self._inner(a, self.at(b, start, p.b.column), where, rows, count)

        self._blocks(p.n, INNER_COLUMNS, columns)

    def _inner(self, a: Any, b: Any, c: Any, rows: int, columns: int) -> None:
        p, space = self.product, Space(self.builder, self.lanes)

        def added(index: Any, sums: list[Any], mask: Value | None) -> list[Any]:
            left = [
                self._load(self.at(self.at(a, i, p.a.row), index, 1), mask) for i in range(rows)
            ]
            result = []
            for j in range(columns):
                right = self._load(self.at(self.at(b, j, p.b.column), index, 1), mask)
                for i in range(rows):
                    before = space.value(sums[j * rows + i], p.dtype)
                    result.append(left[i].fma(right, before).raw)
            return result

        sums = self._zeros(rows * columns)
        whole = p.k // self.lanes * self.lanes
        if whole:
            body = lambda index, carried: added(index, carried, None)
            sums = _loop(self.builder, I64(0), I64(whole), self.lanes, sums, body)
        if p.k > whole:
            sums = added(I64(whole), sums, self._mask(p.k - whole))
        for j in range(columns):
            for i in range(rows):
                where = self.at(self.at(c, i, p.c.row), j, p.c.column)
                self._store(where, self._total(sums[j * rows + i]))

    def _store(self, where: Any, total: Value) -> None:
        old = None
        if self.product.beta:
            old = self.scalar.value(self.builder.load(where, typ=self.element), total.dtype)
        self.memory.store_vector(where, self._scaled(total, old), None)

    def _total(self, raw: Any) -> Value:
        """The sum of all lanes, by halves."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            kind = ir.VectorType(ir.IntType(32), lanes)
            halves = [
                self.builder.shuffle_vector(raw, raw, ir.Constant(kind, list(range(k, k + lanes))))
                for k in (0, lanes)
            ]
            raw = self.builder.fadd(*halves)
        return self.scalar.value(
            self.builder.extract_element(raw, ir.IntType(32)(0)), self.product.dtype
        )
