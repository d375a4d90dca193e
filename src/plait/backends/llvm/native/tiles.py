"""Register-blocked products of small tiles, and the loops and copies around them.

A *tile* is a matrix in scratch memory whose leading dimension is known when code is made, so that
every address is one register and a constant. Owns how tiles are multiplied, packed and transposed;
must not know what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.register_block import UNROLL, VECTORS, register_rows
from plait.backends.llvm.native.vector import BITS, Space, Value, element_type, suffix, vector_type

__all__ = ["POINTER", "Matrix", "Tiles"]

I32 = ir.IntType(32)
POINTER = ir.PointerType()


class Matrix(NamedTuple):
    """A tile: where it begins, and the elements from row to row and from column to column."""

    base: Any
    row: int
    column: int


Start = Callable[[int, int], Value]
Finish = Callable[[int, int, Value], None]


class Tiles:
    """Emits loops over tiles of one floating element type."""

    def __init__(self, builder: Any, dtype: str, vector_bits: int) -> None:
        self.builder = builder
        self.dtype = dtype
        self.lanes = vector_bits // BITS[dtype]
        self.width = VECTORS * self.lanes
        """Columns of a block of registers."""
        self.rows = register_rows(vector_bits)
        self.element = element_type(dtype)
        self.bytes = BITS[dtype] // 8
        self.space = Space(builder, self.lanes, ("contract",))
        self.scalar = self.space.with_lanes(1)

    # Loops ---------------------------------------------------------------------------------------

    def loop(
        self,
        start: Any,
        stop: Any,
        step: int,
        body: Callable[..., Sequence[Any] | None],
        carried: Sequence[Any] = (),
    ) -> list[Any]:
        """for (i = start; i < stop; i += step) body(i, *carried); returns the last carried."""
        builder, before = self.builder, self.builder.block
        inner, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", start, stop), inner, after)
        builder.position_at_end(inner)
        index = builder.phi(I64)
        index.add_incoming(start, before)
        phis = [builder.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried):
            phi.add_incoming(value, before)
        results = list(body(index, *phis) or ())
        following = builder.add(index, I64(step), flags=("nsw",))
        latch = builder.block
        index.add_incoming(following, latch)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value, latch)
        builder.cbranch(builder.icmp_signed("<", following, stop), inner, after)
        builder.position_at_end(after)
        merged = [builder.phi(value.type) for value in carried]
        for phi, first, last in zip(merged, carried, results):
            phi.add_incoming(first, before)
            phi.add_incoming(last, latch)
        return merged

    def least(self, left: Any, right: Any) -> Any:
        """The smaller of two integers."""
        return self.builder.select(self.builder.icmp_signed("<", left, right), left, right)

    def most(self, left: Any, right: Any) -> Any:
        """The larger of two integers."""
        return self.builder.select(self.builder.icmp_signed(">", left, right), left, right)

    def up(self, count: Any, step: int) -> Any:
        """`count` rounded up to a multiple of a power of two, or of any number."""
        builder = self.builder
        raised = builder.add(count, I64(step - 1))
        if step & (step - 1) == 0:
            return builder.and_(raised, I64(-step))
        return builder.mul(builder.udiv(raised, I64(step)), I64(step))

    # Memory --------------------------------------------------------------------------------------

    def at(self, base: Any, offset: Any) -> Any:
        """Address `offset` elements on."""
        offset = I64(offset) if isinstance(offset, int) else offset
        return self.builder.gep(base, [offset], inbounds=True, source_etype=self.element)

    def cell(self, base: Any, matrix: tuple[Any, int], column: Any = 0) -> Any:
        """Address of (row, column) where rows are `matrix[1]` elements apart."""
        row, leading = matrix
        return self.at(self.at(base, self.builder.mul(row, I64(leading))), column)

    def load(self, where: Any) -> Value:
        """A vector."""
        kind = vector_type(self.dtype, self.lanes)
        return Value(self.space, self.builder.load(where, align=self.bytes, typ=kind), self.dtype)

    def store(self, where: Any, value: Value) -> None:
        """Store a vector."""
        self.builder.store(value.raw, where, align=self.bytes)

    def put(self, where: Any, number: Value) -> None:
        """Store one element."""
        self.builder.store(number.raw, where, align=self.bytes)

    def number(self, where: Any) -> Value:
        """One element."""
        raw = self.builder.load(where, align=self.bytes, typ=self.element)
        return Value(self.scalar, raw, self.dtype)

    def spread(self, number: Value) -> Value:
        """One number in every lane."""
        return self.space.splat(number.raw, self.dtype)

    # Products ------------------------------------------------------------------------------------

    def block(
        self,
        shape: tuple[int, int],
        depth: Any,
        a: Matrix,
        b: Matrix,
        start: Start | None,
        finish: Finish,
    ) -> None:
        """finish(r, v, start(r, v) + sum over k < depth of a[r, k] * b[k, v]) in registers.

        shape: (rows, vectors). `depth` (int, or i64 that is a multiple of UNROLL). Rows of `b` are
        vectors side by side.
        """
        rows, vectors = shape
        places = [(r, v) for r in range(rows) for v in range(vectors)]
        zero = self.space.const(self.dtype, 0.0)
        totals = [(start(r, v) if start else zero).raw for r, v in places]

        def steps(count: int) -> Callable[..., list[Any]]:
            def body(k: Any, *carried: Any) -> list[Any]:
                sums = [Value(self.space, raw, self.dtype) for raw in carried]
                a_here = self.at(a.base, self._scaled(k, a.column))
                b_here = self.at(b.base, self._scaled(k, b.row))
                for inner in range(count):
                    sums = self._step(shape, inner, a._replace(base=a_here), b_here, b.row, sums)
                return [value.raw for value in sums]

            return body

        whole = depth if not isinstance(depth, int) else I64(depth - depth % UNROLL)
        totals = self.loop(I64(0), whole, UNROLL, steps(UNROLL), totals)
        if isinstance(depth, int) and depth % UNROLL:
            totals = steps(depth % UNROLL)(whole, *totals)
        for (r, v), raw in zip(places, totals):
            finish(r, v, Value(self.space, raw, self.dtype))

    def _scaled(self, count: Any, stride: int) -> Any:
        return count if stride == 1 else self.builder.mul(count, I64(stride))

    def _step(
        self, shape: tuple[int, int], k: int, a: Matrix, b: Any, b_row: int, sums: list[Value]
    ) -> list[Value]:
        """One rank-one update: a column of `a` times a row of `b`."""
        rows, vectors = shape
        line = [self.load(self.at(b, k * b_row + v * self.lanes)) for v in range(vectors)]
        results = []
        for r in range(rows):
            factor = self.spread(self.number(self.at(a.base, r * a.row + k * a.column)))
            for v in range(vectors):
                results.append(factor.fma(line[v], sums[r * vectors + v]))
        return results

    def row_blocks(self, count: int, body: Callable[[Any, int], None]) -> None:
        """body(first row, rows) over `count` rows by blocks of registers, the last one smaller."""
        whole = count - count % self.rows
        if whole:
            self.loop(I64(0), I64(whole), self.rows, lambda i: body(i, self.rows))
        if count % self.rows:
            body(I64(whole), count % self.rows)

    # Transposition -------------------------------------------------------------------------------

    def shuffle(self, left: Value, right: Value, order: Sequence[int]) -> Value:
        """Lanes of two vectors by number."""
        mask = ir.Constant(ir.VectorType(I32, self.lanes), [I32(n) for n in order])
        return Value(self.space, self.builder.shuffle_vector(left.raw, right.raw, mask), self.dtype)

    def transposed(self, rows: list[Value]) -> list[Value]:
        """A square of as many vectors as lanes, turned (Eklundh: swap quarters, then theirs)."""
        lanes, distance = self.lanes, self.lanes // 2
        while distance:
            upper = [n if not n & distance else lanes + n - distance for n in range(lanes)]
            lower = [n + distance if not n & distance else lanes + n for n in range(lanes)]
            for k in range(lanes):
                if not k & distance:
                    a, b = rows[k], rows[k + distance]
                    rows[k] = self.shuffle(a, b, upper)
                    rows[k + distance] = self.shuffle(a, b, lower)
            distance //= 2
        return rows

    def gathered(self, pointers: Sequence[Any]) -> Value:
        """The elements at one address for each lane."""
        result = ir.Constant(vector_type(self.dtype, self.lanes), ir.Undefined)
        for lane, where in enumerate(pointers):
            result = self.builder.insert_element(result, self.number(where).raw, I32(lane))
        return Value(self.space, result, self.dtype)

    def all_reduced(self, name: str, value: Value) -> Value:
        """Sum ("fadd") or maximum over the lanes of a vector, as one number."""
        is_sum = name == "fadd"
        args = [self.element(-0.0), value.raw] if is_sum else [value.raw]
        flags = ("reassoc",) if is_sum else ()
        full = f"llvm.vector.reduce.{name}.{suffix(value.raw.type)}"
        module = self.builder.module
        function = module.globals.get(full) or ir.Function(
            module, ir.FunctionType(self.element, [arg.type for arg in args]), full
        )
        return Value(self.scalar, self.builder.call(function, args, fastmath=flags), self.dtype)
