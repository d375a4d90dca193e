"""Matrix products over packed operands: panels of columns, panels of rows, blocks of registers.

    void pack(ptr buffers {b, packed}, ptr sizes {n, k, stride}, ptr status, i64 begin, i64 end)
    void rows(ptr a, i64 stride, ptr packed, ptr c, i64 c_stride, i64 m, i64 n, i64 k)

The sum over k is cut into stretches of DEPTH, so that a panel of columns stays in the first-level
cache and the packed rows in the second. A panel holds, number by number, the elements of its
columns (or rows) side by side; a stretch is filled up with zeros to a multiple of UNROLL. Every
element of the result is summed in the order of k, whatever block it falls into. Panels beyond the
edge repeat the last row or column; what they give is not stored. (Goto and van de Geijn 2008.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.emit import KERNEL_TYPE
from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.packed import most_rows
from plait.backends.llvm.native.register_block import UNROLL, VECTORS
from plait.backends.llvm.native.tiles import POINTER, Matrix, Tiles
from plait.backends.llvm.native.vector import Value, vector_type

__all__ = ["ROWS_TYPE", "emit_pack", "emit_rows"]

I1, VOID = ir.IntType(1), ir.VoidType()
DEPTH = 256
"""Numbers of a stretch of the sums."""
ROWS_TYPE = ir.FunctionType(VOID, [POINTER, I64, POINTER, POINTER, I64, I64, I64, I64])


def emit_pack(module: Any, name: str, dtype: str, turned: bool, vector_bits: int) -> None:
    """Add the function that packs panels `begin` to `end` of the right operand."""
    function = ir.Function(module, KERNEL_TYPE, name)
    function.attributes.add("nounwind")
    buffers, sizes, _, begin, end = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    packing = _Packing(builder, dtype, vector_bits)
    b, packed = (
        builder.load(builder.gep(buffers, [I64(k)], source_etype=POINTER), typ=POINTER)
        for k in range(2)
    )
    n, k, stride = (
        builder.load(builder.gep(sizes, [I64(i)], source_etype=I64), typ=I64) for i in range(3)
    )
    width = packing.width
    whole = packing.up(n, width)

    def panel(number: Any) -> None:
        first = builder.mul(number, I64(width))

        def stretch(start: Any) -> None:
            count = packing.least(I64(DEPTH), builder.sub(k, start))
            target = packing.at(packed, builder.mul(start, whole))
            target = packing.at(target, builder.mul(first, packing.up(count, UNROLL)))
            source = packing.shifted(b, start, stride, along=turned)

            def part(offset: Any) -> None:
                lines = (builder.add(first, offset), n, packing.lanes)
                here = packing.at(target, offset)
                packing.panel(here, width, (source, stride), lines, count, along=turned)

            packing.loop(I64(0), I64(width), packing.lanes, part)

        packing.loop(I64(0), k, DEPTH, stretch)

    packing.loop(begin, end, 1, panel)
    builder.ret_void()


def emit_rows(module: Any, name: str, dtype: str, turned: bool, vector_bits: int) -> None:
    """Add the function that multiplies some rows with the packed operand."""
    tile = _emit_tile(module, dtype, vector_bits)
    function = ir.Function(module, ROWS_TYPE, name)
    function.attributes.add("nounwind")
    _Rows(function, tile, dtype, turned, vector_bits).emit()


class _Packing(Tiles):
    """Copies lines of a matrix into panels."""

    def shifted(self, base: Any, start: Any, stride: Any, *, along: bool) -> Any:
        """The operand from number `start` of every line on."""
        return self.at(base, start if along else self.builder.mul(start, stride))

    def panel(
        self, target: Any, pitch: int, source: tuple[Any, Any], lines: tuple[Any, Any, int],
        count: Any, *, along: bool,
    ) -> None:  # fmt: skip
        """Pack `count` numbers of lines first, first + 1, ...; lines: (first, all, wanted).

        Numbers are `pitch` apart in the panel; source: the operand and its stride. `along`: the
        numbers of a line are neighbours; otherwise lines are.
        """
        first, total, width = lines
        last = self.builder.sub(total, I64(1))
        vectors = -(-width // self.lanes)
        pack = self._along if along else self._across
        done = pack((target, pitch), source, (first, last, width), count)

        def rest(k: Any) -> None:
            where = self.cell(target, (k, pitch))

            def line(r: Any) -> None:
                row = self.least(self.builder.add(first, r), last)
                self.put(self.at(where, r), self.number(self._element(source, row, k, along)))

            self.loop(I64(0), I64(width), 1, line)

        self.loop(done, count, 1, rest)
        zero = self.space.const(self.dtype, 0.0)

        def pad(k: Any) -> None:
            self._put_line((target, pitch), k, [zero] * vectors)

        self.loop(count, self.up(count, UNROLL), 1, pad)

    def _element(self, source: tuple[Any, Any], line: Any, k: Any, along: bool) -> Any:
        base, stride = source
        far, near = (line, k) if along else (k, line)
        return self.at(self.at(base, self.builder.mul(far, stride)), near)

    def _put_line(self, panel: tuple[Any, int], k: Any, values: list[Value]) -> None:
        """Line k of a panel. What the last vector has too much is overwritten by line k + 1."""
        where = self.cell(panel[0], (k, panel[1]))
        for v, value in enumerate(values):
            self.store(self.at(where, v * self.lanes), value)

    def _along(
        self, panel: tuple[Any, int], source: tuple[Any, Any], lines: tuple[Any, Any, int],
        count: Any,
    ) -> Any:  # fmt: skip
        """Turn squares of as many lines as lanes; returns the numbers that are done.

        Lines beyond the last are the last.
        """
        (base, stride), (first, last, width) = source, lines
        rows = [self.least(self.builder.add(first, I64(r)), last) for r in range(width)]
        places = [self.at(base, self.builder.mul(row, stride)) for row in rows]
        places += [places[-1]] * (-width % self.lanes)
        groups = [places[v : v + self.lanes] for v in range(0, len(places), self.lanes)]

        def square(k: Any) -> None:
            turned = [
                self.transposed([self.load(self.at(place, k)) for place in group])
                for group in groups
            ]
            for step in range(self.lanes):
                at = self.builder.add(k, I64(step))
                self._put_line(panel, at, [group[step] for group in turned])

        whole = self.builder.and_(count, I64(-self.lanes))
        self.loop(I64(0), whole, self.lanes, square)
        return whole

    def _across(
        self, panel: tuple[Any, int], source: tuple[Any, Any], lines: tuple[Any, Any, int],
        count: Any,
    ) -> Any:  # fmt: skip
        """Copy whole vectors of neighbours, where there are as many; returns what is done."""
        builder = self.builder
        first, last, width = lines
        vectors = -(-width // self.lanes)
        end = builder.add(first, I64(vectors * self.lanes - 1))
        fits = builder.icmp_signed("<=", end, last)

        def line(k: Any) -> None:
            row = self._element(source, first, k, along=False)
            values = [self.load(self.at(row, v * self.lanes)) for v in range(vectors)]
            self._put_line(panel, k, values)

        done = builder.select(fits, count, I64(0))
        self.loop(I64(0), done, 1, line)
        return done


def _emit_tile(module: Any, dtype: str, vector_bits: int) -> Any:
    """void tile(ptr a, ptr b, ptr c, i64 c_stride, i64 depth, i1 fresh): one block of registers.

    c = a b if it is fresh, else c + a b.
    """
    kind = ir.FunctionType(VOID, [POINTER, POINTER, POINTER, I64, I64, I1])
    function = ir.Function(module, kind, "plait_tile")
    function.linkage = "internal"
    function.attributes.add("nounwind")
    function.attributes.add("noinline")
    a, b, c, stride, depth, fresh = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    tiles = Tiles(builder, dtype, vector_bits)
    places = [(r, v) for r in range(tiles.rows) for v in range(VECTORS)]
    rows = [tiles.at(c, builder.mul(I64(r), stride)) for r in range(tiles.rows)]
    where = {(r, v): tiles.at(rows[r], v * tiles.lanes) for r, v in places}
    before = builder.block
    old, begin = builder.append_basic_block("old"), builder.append_basic_block("begin")
    builder.cbranch(fresh, begin, old)
    builder.position_at_end(old)
    loaded = {place: tiles.load(where[place]).raw for place in places}
    builder.branch(begin)
    builder.position_at_end(begin)
    zero = tiles.space.const(dtype, 0.0).raw
    starts = {}
    for place in places:
        starts[place] = builder.phi(vector_type(dtype, tiles.lanes))
        starts[place].add_incoming(zero, before)
        starts[place].add_incoming(loaded[place], old)
    tiles.block(
        (tiles.rows, VECTORS), depth, Matrix(a, 1, tiles.rows), Matrix(b, tiles.width, 1),
        lambda r, v: Value(tiles.space, starts[r, v], dtype),
        lambda r, v, total: tiles.store(where[r, v], total),
    )  # fmt: skip
    builder.ret_void()
    return function


class _Rows(_Packing):
    """Emits the function that multiplies some rows."""

    def __init__(self, function: Any, tile: Any, dtype: str, turned: bool, bits: int) -> None:
        super().__init__(ir.IRBuilder(function.append_basic_block()), dtype, bits)
        self.tile = tile
        self.turned = turned
        self.a, self.stride, self.packed, self.c, self.c_stride, *rest = function.args
        self.m, self.n, self.k = rest
        most = most_rows(self.bytes) + self.rows
        self.panels = self._room(most * DEPTH + self.lanes)
        self.edge = self._room(self.rows * self.width)

    def _room(self, count: int) -> Any:
        with self.builder.goto_entry_block():
            room = self.builder.alloca(ir.ArrayType(self.element, count))
        room.align, room.type = 64, POINTER
        return room

    def emit(self) -> None:
        """The whole function."""
        self.loop(I64(0), self.k, DEPTH, self.stretch)
        self.builder.ret_void()

    def stretch(self, start: Any) -> None:
        """Add the products of one stretch of the sums."""
        builder = self.builder
        count = self.least(I64(DEPTH), builder.sub(self.k, start))
        depth = self.up(count, UNROLL)
        fresh = builder.icmp_signed("==", start, I64(0))
        source = self.shifted(self.a, start, self.stride, along=not self.turned)

        def pack(row: Any) -> None:
            target = self.at(self.panels, builder.mul(row, depth))
            lines = (row, self.m, self.rows)
            along = not self.turned
            self.panel(target, self.rows, (source, self.stride), lines, count, along=along)

        self.loop(I64(0), self.m, self.rows, pack)
        columns = self.at(self.packed, builder.mul(start, self.up(self.n, self.width)))

        def panel(column: Any) -> None:
            b = self.at(columns, builder.mul(column, depth))

            def block(row: Any) -> None:
                a = self.at(self.panels, builder.mul(row, depth))
                corner = self.at(self.at(self.c, builder.mul(row, self.c_stride)), column)
                self.store_block((a, b, corner), (row, column), depth, fresh)

            self.loop(I64(0), self.m, self.rows, block)

        self.loop(I64(0), self.n, self.width, panel)

    def store_block(
        self, places: tuple[Any, Any, Any], corner: tuple[Any, Any], depth: Any, fresh: Any
    ) -> None:
        """One block of registers: straight into the result, or at its edge by way of a copy."""
        builder = self.builder
        a, b, c = places
        rows = builder.sub(self.m, corner[0])
        columns = builder.sub(self.n, corner[1])
        fits = builder.and_(
            builder.icmp_signed(">=", rows, I64(self.rows)),
            builder.icmp_signed(">=", columns, I64(self.width)),
        )
        with builder.if_else(fits, likely=True) as (then, otherwise):
            with then:
                builder.call(self.tile, [a, b, c, self.c_stride, depth, fresh])
            with otherwise:
                width = I64(self.width)
                shape = (self.least(rows, I64(self.rows)), self.least(columns, width))
                with builder.if_then(builder.not_(fresh)):
                    self._copy(shape, (c, self.c_stride), (self.edge, width))
                builder.call(self.tile, [a, b, self.edge, width, depth, fresh])
                self._copy(shape, (self.edge, width), (c, self.c_stride))

    def _copy(
        self, shape: tuple[Any, Any], source: tuple[Any, Any], target: tuple[Any, Any]
    ) -> None:
        """Element by element."""

        def cell(base: tuple[Any, Any], row: Any, column: Any) -> Any:
            return self.at(self.at(base[0], self.builder.mul(row, base[1])), column)

        def each(row: Any) -> Callable[[Any], None]:
            return lambda j: self.put(cell(target, row, j), self.number(cell(source, row, j)))

        self.loop(I64(0), shape[0], 1, lambda row: self.loop(I64(0), shape[1], 1, each(row)))
