"""Derivatives of scaled dot product attention, without the matrix of scores.

    void attention_backward(ptr buffers, ptr sizes, ptr status, i64 begin, i64 end)

An item is a whole head, so that nothing is summed by two threads. For each block of queries and
tile of keys the weights are computed again from the saved logarithms of their sums (Dao 2023,
FlashAttention-2), then, with P the weights and D the products of out and its gradient by row:

    dV += P^T dO        dS = P * (dO V^T - D)        dQ += scale dS K        dK += scale dS^T Q

Tiles of P and dS are [key][query]. Gradients of queries are summed in panels, like the forward
results; those of all keys and values of the head in scratch memory of their size.
"""

from __future__ import annotations

from typing import Any

from plait.backends.llvm.native.attention_tiles import INF, LOG2_E, Heads, power_of_two
from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.register_block import VECTORS
from plait.backends.llvm.native.tiles import Matrix
from plait.backends.llvm.native.vector import Value
from plait.backends.llvm.plan import AttentionForm

__all__ = ["Backward"]

STEP = 12
"""Rows of tiles are cleared up to a multiple of this: of rows of registers, and of UNROLL."""
QUERY, KEY, VALUE, MASK, GRAD, OUT, LOGSUMEXP, GRAD_QUERY, GRAD_KEY, GRAD_VALUE = range(10)


class Backward(Heads):
    """Emits the function."""

    def __init__(self, function: Any, form: AttentionForm, vector_bits: int) -> None:
        super().__init__(function, form, vector_bits, 10)
        self.wants_query, self.wants_key, self.wants_value = form.wanted
        self.padded = -(-self.numbers // self.lanes) * self.lanes
        numbers, (queries, keys) = self.numbers, form.tile
        self.block_size, self.tile_size = form.tile
        lengths = (
            queries * numbers, queries * numbers, queries * numbers, queries, queries,
            queries * self.padded, queries * self.padded,
            keys * queries, keys * queries, keys * numbers, keys * numbers,
        )  # fmt: skip
        self.room = self.take(sum(lengths))
        rooms = self.parts(self.room, lengths)
        self.turned_queries, self.turned_grads, self.totals, self.logs, self.dots = rooms[:5]
        self.queries_, self.grads, weights, slopes, self.keys_, self.values = rooms[5:]
        self.weights = Matrix(weights, queries, 1)
        self.slopes = Matrix(slopes, queries, 1)
        rows = self.builder.add(self.keys, I64(self.tile_size))
        self.sum_size = self.builder.mul(rows, I64(self.padded))
        self.key_sums, self.value_sums = self.take(self.sum_size), self.take(self.sum_size)

    def emit(self) -> None:
        """The whole function."""
        self.loop(self.begin, self.end, 1, self.item)
        for block in (self.room, self.key_sums, self.value_sums):
            self.give(block)
        self.builder.ret_void()

    def item(self, head: Any) -> None:
        """One head."""
        builder = self.builder
        places = {k: self.head(k, head) for k in range(10)}
        for sums in (self.key_sums, self.value_sums):
            self.clear(sums, I64(0), self.sum_size, 1)

        def block(first: Any) -> None:
            count = self.least(I64(self.block_size), builder.sub(self.queries, first))
            self.begin_block(places, first, count)
            stop = self.keys
            if self.form.is_causal:
                stop = self.least(stop, builder.add(first, count))
            self.loop(
                I64(0), stop, self.tile_size,
                lambda key: self.tile(places, (first, count), key, builder.sub(stop, key)),
            )  # fmt: skip
            if self.wants_query:
                self.finish_queries(places, first, count)

        self.loop(I64(0), self.queries, self.block_size, block)
        if self.wants_key:
            self.finish_rows(self.key_sums, GRAD_KEY, places[GRAD_KEY])
        if self.wants_value:
            self.finish_rows(self.value_sums, GRAD_VALUE, places[GRAD_VALUE])

    def panel(self, base: Any, query: Any) -> Any:
        """Address of the panel that holds the block's query number `query`."""
        return self.cell(base, (query, self.numbers))

    # A block of queries --------------------------------------------------------------------------

    def begin_block(self, places: dict[int, Any], first: Any, count: Any) -> None:
        """Pack everything that belongs to the queries from `first` on."""
        builder = self.builder
        size = I64(self.numbers * self.width)

        def panel(query: Any) -> None:
            row = builder.add(first, query)
            turned = self.panel(self.turned_queries, query)
            self.pack_panel(turned, QUERY, places[QUERY], row, self.form.scale * LOG2_E)
            grads = self.panel(self.turned_grads, query)
            self.pack_panel(grads, GRAD, places[GRAD], row)
            total = self.panel(self.totals, query)
            self.pack_panel(total, OUT, places[OUT], row)
            self.row_dots(grads, total, query)
            self.clear(total, I64(0), size, VECTORS)
            self.load_logs(places[LOGSUMEXP], row, query)

        self.loop(I64(0), count, self.width, panel)
        whole = self.up(count, self.width)
        for tile, position, factor in (
            (self.queries_, QUERY, self.form.scale), (self.grads, GRAD, 1.0)
        ):  # fmt: skip
            self.copy_padded(tile, position, places[position], first, count, factor)
            begin, end = (builder.mul(n, I64(self.padded)) for n in (count, whole))
            self.clear(tile, begin, end, 1)

    def copy_padded(
        self, tile: Any, position: int, base: Any, first: Any, count: Any, factor: float
    ) -> None:
        """tile[r, :] = factor * row (first + r), filled up with zeros to whole vectors."""

        def row(number: Any) -> None:
            source = self.moved(position, base, self.builder.add(first, number))
            target = self.cell(tile, (number, self.padded))
            if self.rest():
                zero = self.space.const(self.dtype, 0.0)
                self.store(self.at(target, self.padded - self.lanes), zero)

            def some(n: Any) -> None:
                self.store(self.at(target, n), self.load(self.at(source, n)) * factor)

            self.along(some)
            for n in self.rest():
                self.put(self.at(target, n), self.number(self.at(source, n)) * factor)

        self.loop(I64(0), count, 1, row)

    def row_dots(self, left: Any, right: Any, query: Any) -> None:
        """dots[query] = sum over n of left[n, lane] * right[n, lane]."""

        def line(n: Any, *sums: Any) -> list[Any]:
            results = []
            for v, raw in enumerate(sums):
                a, b = (self.load(self.cell(x, (n, self.width), v * self.lanes))
                        for x in (left, right))  # fmt: skip
                results.append(a.fma(b, Value(self.space, raw, self.dtype)).raw)
            return results

        zero = self.space.const(self.dtype, 0.0).raw
        found = self.loop(I64(0), I64(self.numbers), 1, line, [zero] * VECTORS)
        for v, raw in enumerate(found):
            where = self.at(self.at(self.dots, query), v * self.lanes)
            self.store(where, Value(self.space, raw, self.dtype))

    def load_logs(self, base: Any, first: Any, query: Any) -> None:
        """logs[query] in units of log2 e; +inf for rows that do not exist, whose weights are 0."""
        builder = self.builder
        last = builder.sub(self.queries, I64(1))
        rows = self.rows_at(LOGSUMEXP, base, first, last, self.width)
        for v in range(VECTORS):
            begin = v * self.lanes
            logs = self.gathered(rows[begin : begin + self.lanes]) * LOG2_E
            left = builder.sub(self.queries, builder.add(first, I64(begin)))
            exists = self.space.iota("i64").lt(self.space.splat(left, "i64"))
            where = self.at(self.at(self.logs, query), begin)
            self.store(where, exists.where(logs, INF))

    # A tile of keys ------------------------------------------------------------------------------

    def tile(self, places: dict[int, Any], block: tuple[Any, Any], key: Any, left: Any) -> None:
        """Take the keys from `key` on into account for all queries of the block."""
        first, count = block
        keys = self.least(I64(self.tile_size), left)
        self.copy_rows(self.keys_, self.numbers, KEY, places[KEY], key, keys)
        self.copy_rows(self.values, self.numbers, VALUE, places[VALUE], key, keys)
        self.clear_rows(self.keys_, keys, self.up(keys, STEP))

        def panel(query: Any) -> None:
            row = self.builder.add(first, query)
            self.panel_and_tile(query, row, key, keys, places[MASK])

        self.loop(I64(0), count, self.width, panel)
        whole = self.up(count, self.width)
        where = self.builder.mul(key, I64(self.padded))
        if self.wants_value:
            self.add_rows(self.at(self.value_sums, where), self.weights, self.grads, keys, whole)
        if self.wants_key:
            self.add_rows(self.at(self.key_sums, where), self.slopes, self.queries_, keys, whole)

    def panel_and_tile(self, query: Any, first: Any, key: Any, keys: Any, mask: Any) -> None:
        """Weights and slopes of one panel of queries; then its share of the gradient."""
        weights = self.weights._replace(base=self.at(self.weights.base, query))
        slopes = self.slopes._replace(base=self.at(self.slopes.base, query))
        turned = self.panel(self.turned_queries, query)
        self.products(self.keys_, turned, keys, self.keep(weights))
        if self.form.mask:
            self.mask_tile(weights, keys, mask, first, key)
        if self.form.is_causal:
            self.mask_later(weights, keys, first, key)
        self.weigh(weights, query, keys)
        if self.wants_query or self.wants_key:
            self.slope(slopes, weights, query, keys)
        for tile in (weights, slopes):
            self.clear_lines(tile, keys, self.up(keys, STEP))
        if self.wants_query:
            self.add_panel(self.panel(self.totals, query), slopes, keys)

    def clear_lines(self, tile: Matrix, start: Any, stop: Any) -> None:
        """Zero lines of one panel of a tile."""
        zero = self.space.const(self.dtype, 0.0)

        def line(key: Any) -> None:
            for v in range(VECTORS):
                self.store(self.cell(tile.base, (key, tile.row), v * self.lanes), zero)

        self.loop(start, stop, 1, line)

    def weigh(self, weights: Matrix, query: Any, keys: Any) -> None:
        """Scores become weights."""
        logs = [self.load(self.at(self.at(self.logs, query), v * self.lanes))
                for v in range(VECTORS)]  # fmt: skip

        def line(key: Any) -> None:
            for v in range(VECTORS):
                where = self.cell(weights.base, (key, weights.row), v * self.lanes)
                self.store(where, power_of_two(self.load(where) - logs[v]))

        self.loop(I64(0), keys, 1, line)

    def slope(self, slopes: Matrix, weights: Matrix, query: Any, keys: Any) -> None:
        """slopes = weights * (values . gradient - dots)."""
        place = self.at(self.dots, query)

        def finish(key: Any, v: int, value: Value) -> None:
            dots = self.load(self.at(place, v * self.lanes))
            weight = self.load(self.cell(weights.base, (key, weights.row), v * self.lanes))
            where = self.cell(slopes.base, (key, slopes.row), v * self.lanes)
            self.store(where, weight * (value - dots))

        self.products(self.values, self.panel(self.turned_grads, query), keys, finish)

    def add_panel(self, panel: Any, slopes: Matrix, keys: Any) -> None:
        """panel[n, lane] += sum over keys of key[key, n] * slope[key, lane]."""
        depth = self.up(keys, STEP)

        def some(row: Any, count: int) -> None:
            corner = self.cell(panel, (row, self.width))

            def place(r: int, v: int) -> Any:
                return self.at(corner, r * self.width + v * self.lanes)

            self.block(
                (count, VECTORS), depth, Matrix(self.at(self.keys_, row), 1, self.numbers), slopes,
                lambda r, v: self.load(place(r, v)),
                lambda r, v, total: self.store(place(r, v), total),
            )  # fmt: skip

        self.row_blocks(self.numbers, some)

    def add_rows(self, sums: Any, tile: Matrix, rows: Any, keys: Any, depth: Any) -> None:
        """sums[key, n] += sum over the block's queries of tile[key, query] * rows[query, n]."""

        def columns(key: Any, n: Any, vectors: int) -> None:
            corner = self.at(self.cell(sums, (key, self.padded)), n)

            def place(r: int, v: int) -> Any:
                return self.at(corner, r * self.padded + v * self.lanes)

            self.block(
                (self.rows, vectors), depth,
                Matrix(self.cell(tile.base, (key, tile.row)), tile.row, 1),
                Matrix(self.at(rows, n), self.padded, 1),
                lambda r, v: self.load(place(r, v)),
                lambda r, v, total: self.store(place(r, v), total),
            )  # fmt: skip

        pairs = self.padded - self.padded % self.width

        def some(key: Any) -> None:
            self.loop(I64(0), I64(pairs), self.width, lambda n: columns(key, n, VECTORS))
            if pairs < self.padded:
                columns(key, I64(pairs), 1)

        self.loop(I64(0), keys, self.rows, some)

    # The end -------------------------------------------------------------------------------------

    def finish_queries(self, places: dict[int, Any], first: Any, count: Any) -> None:
        """Store the gradients of a block of queries."""
        factor = self.space.const(self.dtype, self.form.scale)

        def panel(query: Any) -> None:
            row = self.builder.add(first, query)
            total = self.panel(self.totals, query)
            self.unpack_panel(total, GRAD_QUERY, places[GRAD_QUERY], row, [factor] * VECTORS)

        self.loop(I64(0), count, self.width, panel)

    def finish_rows(self, sums: Any, position: int, base: Any) -> None:
        """Store the gradients of all keys or values."""

        def row(key: Any) -> None:
            source = self.cell(sums, (key, self.padded))
            target = self.moved(position, base, key)
            self.along(lambda n: self.store(self.at(target, n), self.load(self.at(source, n))))
            for n in self.rest():
                self.put(self.at(target, n), self.number(self.at(source, n)))

        self.loop(I64(0), self.keys, 1, row)
