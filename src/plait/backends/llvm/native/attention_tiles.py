"""What the kernels of attention share: their arguments, packed panels and tiles, masked scores.

*Panels* hold queries, or gradients of their outputs, transposed: [number][query], two vectors of
queries wide. *Tiles* hold keys or values as they are: [key][number]. A tile of scores is
[key][query of one panel or block]; scores are kept in units of log2 e, which is part of the factor
that queries are packed with, so that weights are powers of two. Must not know the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.mathtables import TABLES
from plait.backends.llvm.native.register_block import VECTORS
from plait.backends.llvm.native.tiles import POINTER, Matrix, Tiles
from plait.backends.llvm.native.vector import Value, horner
from plait.backends.llvm.plan import ATTENTION_MASK, AttentionForm

__all__ = ["INF", "LN_2", "LOG2_E", "Heads", "power_of_two"]

INF = float("inf")
LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
# 2**f on |f| <= 1/2, fitted by Chebyshev interpolation; errors 2e-9 and 3e-18.
EXP2 = {
    "f32": (
        1.0, 0.6931472067028326, 0.24022650922288757, 0.05550327226670302, 0.009618056678524637,
        0.0013400428177615838, 0.0001546144469856913,
    ),
    "f64": (
        1.0, 0.6931471805599453, 0.24022650695910158, 0.055504108664821625, 0.009618129107587256,
        0.001333355814640647, 0.00015403530463724353, 1.5252733841556773e-05,
        1.3215432535912375e-06, 1.0178057087733941e-07, 7.074194297288521e-09,
        4.4558179083360645e-10,
    ),
}  # fmt: skip


def power_of_two(x: Value) -> Value:
    """2**x for x <= 0 or NaN; zero where the result would not be a normal number."""
    t = TABLES[x.dtype]
    shifted = x + (t.magic + t.bias)
    scale = (shifted.bits() << t.mantissa).as_float()
    result = horner(x - (shifted - (t.magic + t.bias)), EXP2[x.dtype]) * scale
    return x.lt(1.0 - t.bias).where(0.0, result)


class Operand:
    """One tensor: its address, and its strides by batch, head and row (and column, of a mask)."""

    def __init__(self, pointer: Any, strides: Sequence[Any], kind: Any) -> None:
        self.pointer = pointer
        self.strides = list(strides)
        self.kind = kind


class Heads(Tiles):
    """Emits the function of one form of attention."""

    def __init__(self, function: Any, form: AttentionForm, vector_bits: int, count: int) -> None:
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        super().__init__(builder, form.dtype, vector_bits)
        self.form = form
        self.numbers = form.width
        buffers, sizes, _, self.begin, self.end = function.args
        present = [True] * (count - len(form.wanted)) + list(form.wanted)
        present[ATTENTION_MASK] = bool(form.mask)
        order = iter(range(4 + 4 * count))

        def size() -> Any:
            where = builder.gep(sizes, [I64(next(order))], source_etype=I64)
            return builder.load(where, typ=I64)

        self.batch, self.heads, self.queries, self.keys = (size() for _ in range(4))
        self.operands: list[Operand | None] = []
        for position, is_here in enumerate(present):
            if not is_here:
                self.operands.append(None)
                continue
            where = builder.gep(buffers, [I64(position)], source_etype=POINTER)
            is_mask = position == ATTENTION_MASK
            strides = [size() for _ in range(4 if is_mask else 3)]
            kind = ir.IntType(8) if is_mask and form.mask == "i1" else self.element
            self.operands.append(Operand(builder.load(where, typ=POINTER), strides, kind))

    # Scratch memory ------------------------------------------------------------------------------

    def heap(self, name: str, result: Any, args: list[Any]) -> Any:
        """Call an allocation function of the C library."""
        module = self.builder.module
        kind = ir.FunctionType(result, [arg.type for arg in args])
        found = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(found, args)

    def take(self, elements: Any) -> Any:
        """Scratch memory, aligned to 64 bytes."""
        count = I64(elements) if isinstance(elements, int) else elements
        amount = self.up(self.builder.mul(count, I64(self.bytes)), 64)
        return self.heap("aligned_alloc", POINTER, [I64(64), amount])

    def parts(self, block: Any, lengths: Sequence[int]) -> list[Any]:
        """Addresses of parts of these lengths, one after the other."""
        return [self.at(block, sum(lengths[:k])) for k in range(len(lengths))]

    def give(self, block: Any) -> None:
        """Free what `take` gave."""
        self.heap("free", ir.VoidType(), [block])

    # Places --------------------------------------------------------------------------------------

    def moved(self, position: int, pointer: Any, count: Any, dim: int = 2) -> Any:
        """Address `count` steps along a dimension of a tensor."""
        operand = self.operands[position]
        assert operand is not None
        offset = self.builder.mul(count, operand.strides[dim])
        return self.builder.gep(pointer, [offset], inbounds=True, source_etype=operand.kind)

    def head(self, position: int, item: Any) -> Any:
        """Address of a tensor's part that belongs to head `item`, counted over all batches."""
        operand = self.operands[position]
        if operand is None:
            return None
        builder = self.builder
        batch, head = builder.udiv(item, self.heads), builder.urem(item, self.heads)
        return self.moved(position, self.moved(position, operand.pointer, batch, 0), head, 1)

    def rows_at(self, position: int, base: Any, first: Any, last: Any, count: int) -> list[Any]:
        """Addresses of `count` rows from `first` on; those beyond `last` are `last` again."""
        rows = (self.least(self.builder.add(first, I64(k)), last) for k in range(count))
        return [self.moved(position, base, row) for row in rows]

    # Packing -------------------------------------------------------------------------------------

    def along(self, body: Callable[[Any], None], written_out: int = 1) -> None:
        """body(first) for every whole vector of a row of numbers; up to some without a loop."""
        whole = self.numbers - self.numbers % self.lanes
        if whole <= written_out * self.lanes:
            for first in range(0, whole, self.lanes):
                body(I64(first))
        else:
            self.loop(I64(0), I64(whole), self.lanes, lambda first: body(first))

    def rest(self) -> range:
        """The numbers of a row after its last whole vector."""
        return range(self.numbers - self.numbers % self.lanes, self.numbers)

    def copy_rows(
        self, tile: Any, leading: int, position: int, base: Any, first: Any, count: Any
    ) -> None:
        """tile[r, :] = row first + r of a tensor."""

        def row(number: Any) -> None:
            source = self.moved(position, base, self.builder.add(first, number))
            target = self.cell(tile, (number, leading))
            self.along(lambda n: self.store(self.at(target, n), self.load(self.at(source, n))), 16)
            for n in self.rest():
                self.put(self.at(target, n), self.number(self.at(source, n)))

        self.loop(I64(0), count, 1, row)

    def clear_rows(self, tile: Any, start: Any, stop: Any) -> None:
        """Zero a few rows of a tile, number by number."""
        zero = self.scalar.const(self.dtype, 0.0)
        begin, end = (self.builder.mul(n, I64(self.numbers)) for n in (start, stop))
        self.loop(begin, end, 1, lambda n: self.put(self.at(tile, n), zero))

    def clear(self, base: Any, start: Any, stop: Any, step: int) -> None:
        """Zero the elements from `start` to `stop`, `step` vectors at a time."""
        zero = self.space.const(self.dtype, 0.0)

        def some(where: Any) -> None:
            for k in range(step):
                self.store(self.at(self.at(base, where), k * self.lanes), zero)

        self.loop(start, stop, step * self.lanes, some)

    def pack_panel(
        self, panel: Any, position: int, base: Any, first: Any, factor: float = 1.0
    ) -> None:
        """panel[n, lane] = factor * row (first + lane)[n]; rows beyond the last are the last."""
        last = self.builder.sub(self.queries, I64(1))
        rows = self.rows_at(position, base, first, last, self.width)

        for v in range(VECTORS):
            mine = rows[v * self.lanes : (v + 1) * self.lanes]

            def square(n: Any, mine: list[Any] = mine, v: int = v) -> None:
                turned = self.transposed([self.load(self.at(row, n)) for row in mine])
                corner = self.cell(panel, (n, self.width), v * self.lanes)
                for k, value in enumerate(turned):
                    self.store(self.at(corner, k * self.width), value * factor)

            self.along(square)
            for n in self.rest():
                column = self.gathered([self.at(row, n) for row in mine])
                self.store(self.at(panel, n * self.width + v * self.lanes), column * factor)

    def unpack_panel(
        self, panel: Any, position: int, base: Any, first: Any, factors: Sequence[Value]
    ) -> None:
        """row (first + lane)[n] = factors * panel[n, lane], for rows that exist."""
        rows = self.rows_at(position, base, first, self.queries, self.width)
        for v in range(VECTORS):
            mine = rows[v * self.lanes : (v + 1) * self.lanes]
            left = self.builder.sub(self.queries, self.builder.add(first, I64(v * self.lanes)))

            def square(n: Any, mine: list[Any] = mine, left: Any = left, v: int = v) -> None:
                corner = self.cell(panel, (n, self.width), v * self.lanes)
                lines = [self.load(self.at(corner, k * self.width)) for k in range(self.lanes)]
                turned = self.transposed([line * factors[v] for line in lines])
                for k, value in enumerate(turned):
                    with self.builder.if_then(self.builder.icmp_signed("<", I64(k), left)):
                        self.store(self.at(mine[k], n), value)

            self.along(square)
            for n in self.rest():
                line = self.load(self.at(panel, n * self.width + v * self.lanes)) * factors[v]
                self.scatter(line, [self.at(row, n) for row in mine], left)

    def scatter(self, line: Value, places: Sequence[Any], count: Any) -> None:
        """Store each lane below `count` at its own address."""
        for k, where in enumerate(places):
            with self.builder.if_then(self.builder.icmp_signed("<", I64(k), count)):
                raw = self.builder.extract_element(line.raw, ir.IntType(32)(k))
                self.builder.store(raw, where, align=self.bytes)

    # Scores --------------------------------------------------------------------------------------

    def products(
        self, tile: Any, panel: Any, count: Any, finish: Callable[[Any, int, Value], None]
    ) -> None:
        """finish(key, v, sum over n of tile[key, n] * panel[n, v]) for `count` keys, rounded up to
        a block of registers.
        """
        b = Matrix(panel, self.width, 1)

        def some(key: Any) -> None:
            a = Matrix(self.cell(tile, (key, self.numbers)), self.numbers, 1)

            def each(r: int, v: int, value: Value) -> None:
                finish(self.builder.add(key, I64(r)) if r else key, v, value)

            self.block((self.rows, VECTORS), self.numbers, a, b, None, each)

        self.loop(I64(0), count, self.rows, some)

    def keep(self, out: Matrix) -> Callable[[Any, int, Value], None]:
        """What stores the products as a tile."""
        return lambda key, v, value: self.store(
            self.cell(out.base, (key, out.row), v * self.lanes), value
        )

    def mask_later(self, scores: Matrix, count: Any, first_query: Any, first_key: Any) -> None:
        """-inf where the key comes after the query."""
        builder, whole = self.builder, "i64" if self.bytes == 8 else "i32"
        ahead = builder.sub(first_query, first_key)
        start = self.most(builder.add(ahead, I64(1)), I64(0))

        def line(key: Any) -> None:
            corner = self.cell(scores.base, (key, scores.row))
            for v in range(VECTORS):
                distance = builder.sub(builder.sub(key, ahead), I64(v * self.lanes))
                if whole == "i32":
                    distance = builder.trunc(distance, ir.IntType(32))
                hidden = self.space.iota(whole).lt(self.space.splat(distance, whole))
                where = self.at(corner, v * self.lanes)
                self.store(where, hidden.where(-INF, self.load(where)))

        self.loop(start, count, 1, line)

    def mask_tile(
        self, scores: Matrix, count: Any, base: Any, first_query: Any, first_key: Any
    ) -> None:
        """Add the mask, or put -inf where it is false. `base`: the mask of this head."""
        if not self.form.mask_by_query:
            self._mask_by_key(scores, count, self.moved(3, base, first_key, 3))
            return
        last = self.builder.sub(self.queries, I64(1))
        rows = self.rows_at(3, base, first_query, last, self.width)
        rows = [self.moved(3, row, first_key, 3) for row in rows]
        middle = I64(0)
        if self.form.mask_is_dense:
            middle = self.builder.and_(count, I64(-self.lanes))
            self.loop(I64(0), middle, self.lanes, lambda key: self._mask_square(scores, rows, key))

        def line(key: Any) -> None:
            corner = self.cell(scores.base, (key, scores.row))
            for v in range(VECTORS):
                mine = rows[v * self.lanes : (v + 1) * self.lanes]
                places = [self.moved(3, row, key, 3) for row in mine]
                numbers = [self.mask_number(where) for where in places]
                self._masked(self.at(corner, v * self.lanes), self._joined(numbers))

        self.loop(middle, count, 1, line)

    def _mask_square(self, scores: Matrix, rows: list[Any], key: Any) -> None:
        """As many keys as lanes at once."""
        for v in range(VECTORS):
            mine = rows[v * self.lanes : (v + 1) * self.lanes]
            turned = self.transposed([self._mask_vector(row, key) for row in mine])
            corner = self.cell(scores.base, (key, scores.row), v * self.lanes)
            for k, value in enumerate(turned):
                self._masked(self.at(corner, k * scores.row), value)

    def _mask_by_key(self, scores: Matrix, count: Any, base: Any) -> None:
        def line(key: Any) -> None:
            bias = self.spread(self.mask_number(self.moved(3, base, key, 3)))
            corner = self.cell(scores.base, (key, scores.row))
            for v in range(VECTORS):
                self._masked(self.at(corner, v * self.lanes), bias)

        self.loop(I64(0), count, 1, line)

    def mask_number(self, where: Any) -> Value:
        """A mask's number; of a boolean, 0 or -inf."""
        if self.form.mask != "i1":
            return self.number(where)
        byte = Value(self.scalar, self.builder.load(where, typ=ir.IntType(8)), "u8")
        return byte.ne(0).where(self.scalar.const(self.dtype, 0.0), -INF)

    def _mask_vector(self, row: Any, key: Any) -> Value:
        """The same of neighbouring keys."""
        operand = self.operands[ATTENTION_MASK]
        assert operand is not None
        where = self.builder.gep(row, [key], inbounds=True, source_etype=operand.kind)
        if self.form.mask != "i1":
            return self.load(where)
        kind = ir.VectorType(ir.IntType(8), self.lanes)
        bytes_ = Value(self.space, self.builder.load(where, align=1, typ=kind), "u8")
        return bytes_.ne(0).where(self.space.const(self.dtype, 0.0), -INF)

    def _joined(self, numbers: Sequence[Value]) -> Value:
        result = ir.Constant(self.space.type(self.dtype), ir.Undefined)
        for lane, number in enumerate(numbers):
            result = self.builder.insert_element(result, number.raw, ir.IntType(32)(lane))
        return Value(self.space, result, self.dtype)

    def _masked(self, where: Any, bias: Value) -> None:
        score = self.load(where)
        if self.form.mask == "i1":
            self.store(where, bias.eq(0.0).where(score, -INF))
        else:
            self.store(where, bias.fma(LOG2_E, score))
