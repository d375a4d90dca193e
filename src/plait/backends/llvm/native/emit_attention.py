"""Scaled dot product attention as one kernel that never holds the matrix of scores.

    void attention(ptr buffers, ptr sizes, ptr status, i64 begin, i64 end)

An item is a block of queries of one head. Its queries stand in the lanes of vectors, in panels,
while keys and values pass by in tiles. For each tile and panel: scores, the running maximum, powers
of two, the running sum, and the weighted values, which are rescaled as they are loaded (Milakov and
Gimelshein 2018; Dao et al. 2022). With queries in lanes the maximum and the sum go from key to key,
never across lanes, and keys and values are read as single numbers: nothing of them is transposed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.attention_tiles import INF, LN_2, LOG2_E, Heads, power_of_two
from plait.backends.llvm.native.emit import KERNEL_TYPE
from plait.backends.llvm.native.emit_attention_backward import Backward
from plait.backends.llvm.native.emit_attention_rows import Rows
from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.mathfns import call_math
from plait.backends.llvm.native.register_block import UNROLL, VECTORS
from plait.backends.llvm.native.tiles import Matrix
from plait.backends.llvm.native.vector import Value
from plait.backends.llvm.plan import FEW, Attention, AttentionForm
from plait.symbolic.expr import Expr

__all__ = ["attention_items", "attention_work", "emit_attention"]

QUERY, KEY, VALUE, MASK, OUT, LOGSUMEXP = range(6)


def attention_items(step: Attention) -> Expr:
    """What threads share out: blocks of queries, or whole heads for derivatives."""
    heads, block = step.batch * step.heads, step.form.tile[0]
    return heads if step.form.backward else heads * ((step.queries + (block - 1)) // block)


def attention_work(step: Attention) -> Expr:
    """Rough number of instructions counted in vectors' lanes, never 0: 2 for a multiply-add."""
    products = 5 if step.form.backward else 2
    pairs = step.batch * step.heads * step.queries * step.keys
    return pairs * (2 * products * step.form.width) + 1


def emit_attention(module: Any, form: AttentionForm, name: str, vector_bits: int) -> Any:
    """Add the function of a form of attention to a module; returns the LLVM function."""
    function = ir.Function(module, KERNEL_TYPE, name)
    function.attributes.add("nounwind")
    emitter = Backward if form.backward else _Forward
    emitter(function, form, vector_bits).emit()
    return function


class _Forward(Heads):
    """Emits the forward function."""

    def __init__(self, function: Any, form: AttentionForm, vector_bits: int) -> None:
        super().__init__(function, form, vector_bits, 6)
        self.block_size, self.tile_size = form.tile
        self.rows_ = Rows(self) if form.few is not False else None
        lengths = () if form.few else self.lengths()
        small = self.rows_.lengths if self.rows_ else ()
        self.room = self.take(sum(lengths) + sum(small))
        rooms = self.parts(self.room, (*lengths, *small))
        if self.rows_:
            self.rows_.use(rooms[len(lengths) :])
        if lengths:
            self.turned, self.totals, self.tops, self.sums, self.keys_, self.values = rooms[:6]
            self.scores = Matrix(rooms[6], self.width, 1)

    def lengths(self) -> tuple[int, ...]:
        """Scratch memory: panels of queries and sums, their state, two tiles, and scores."""
        panels = self.block_size // self.width
        panel, tile = self.numbers * self.width, self.tile_size * self.numbers
        state, scores = panels * self.width, (self.tile_size + self.rows) * self.width
        return (panels * panel, panels * panel, state, state, tile, tile, scores)

    def emit(self) -> None:
        """The whole function."""
        builder = self.builder
        blocks = builder.udiv(
            builder.add(self.queries, I64(self.block_size - 1)), I64(self.block_size)
        )

        def item(number: Any) -> None:
            head, block = builder.udiv(number, blocks), builder.urem(number, blocks)
            if self.form.is_causal:  # the longest first
                block = builder.sub(builder.sub(blocks, I64(1)), block)
            self.item(head, builder.mul(block, I64(self.block_size)))

        self.loop(self.begin, self.end, 1, item)
        self.give(self.room)
        builder.ret_void()

    def item(self, head: Any, first: Any) -> None:
        """The queries from `first` on."""
        builder = self.builder
        count = self.least(I64(self.block_size), builder.sub(self.queries, first))
        places = {k: self.head(k, head) for k in (QUERY, KEY, VALUE, MASK, OUT, LOGSUMEXP)}
        if self.rows_ is None:
            self.by_panels(places, first, count)
        elif self.form.few:
            self.by_rows(self.rows_, places, count)
        else:
            is_few = builder.icmp_signed("<=", self.queries, I64(FEW))
            with builder.if_else(is_few) as (then, otherwise):
                with then:
                    self.by_rows(self.rows_, places, count)
                with otherwise:
                    self.by_panels(places, first, count)

    def by_rows(self, rows: Rows, places: dict[int, Any], count: Any) -> None:
        """Queries one by one; few of them are a single block."""
        self.loop(I64(0), count, 1, lambda query: rows.row(query, places))

    def by_panels(self, places: dict[int, Any], first: Any, count: Any) -> None:
        """Queries as many at a time as there are lanes in a panel."""
        builder = self.builder
        self.begin_block(places[QUERY], first, count)
        stop = self.keys
        if self.form.is_causal:
            stop = self.least(stop, builder.add(first, count))

        def tile(key: Any) -> None:
            keys = self.least(I64(self.tile_size), builder.sub(stop, key))
            self.copy_rows(self.keys_, self.numbers, KEY, places[KEY], key, keys)
            self.copy_rows(self.values, self.numbers, VALUE, places[VALUE], key, keys)
            self.clear_rows(self.values, keys, self.up(keys, UNROLL))
            self.loop(
                I64(0), count, self.width,
                lambda n: self.panel_and_tile(n, builder.add(first, n), key, keys, places[MASK]),
            )  # fmt: skip

        self.loop(I64(0), stop, self.tile_size, tile)
        self.loop(
            I64(0), count, self.width,
            lambda n: self.finish(n, builder.add(first, n), places),
        )  # fmt: skip

    def panel(self, base: Any, query: Any) -> Any:
        """Address of the panel that holds the block's query number `query`."""
        return self.cell(base, (query, self.numbers))

    def begin_block(self, queries: Any, first: Any, count: Any) -> None:
        """Pack the queries; nothing is summed yet."""
        factor = self.form.scale * LOG2_E

        def panel(query: Any) -> None:
            where = self.panel(self.turned, query)
            self.pack_panel(where, QUERY, queries, self.builder.add(first, query), factor)
            size = I64(self.numbers * self.width)
            self.clear(self.panel(self.totals, query), I64(0), size, VECTORS)
            for v in range(VECTORS):
                here = self.builder.add(query, I64(v * self.lanes))
                self.store(self.at(self.tops, here), self.space.const(self.dtype, -INF))
                self.store(self.at(self.sums, here), self.space.const(self.dtype, 0.0))

        self.loop(I64(0), count, self.width, panel)

    # One tile of keys and one panel of queries ---------------------------------------------------

    def panel_and_tile(self, query: Any, first: Any, key: Any, keys: Any, mask: Any) -> None:
        """Take `keys` keys from `key` on into account for the panel at `query` of the block."""
        builder = self.builder
        if self.form.is_causal:
            ahead = builder.sub(builder.add(first, I64(self.width)), key)
            keys = self.least(keys, self.most(ahead, I64(0)))
        some = builder.icmp_signed(">", keys, I64(0))
        with builder.if_then(some):
            panel = self.panel(self.turned, query)
            self.products(self.keys_, panel, keys, self.keep(self.scores))
            if self.form.mask:
                self.mask_tile(self.scores, keys, mask, first, key)
            if self.form.is_causal:
                self.mask_later(self.scores, keys, first, key)
            rescale = self.weights(query, keys)
            self.accumulate(self.panel(self.totals, query), keys, rescale)

    def weights(self, query: Any, keys: Any) -> list[Value]:
        """Scores become weights relative to the new maximum; returns what old sums shrink by."""
        tops = [self.at(self.at(self.tops, query), v * self.lanes) for v in range(VECTORS)]
        sums = [self.at(self.at(self.sums, query), v * self.lanes) for v in range(VECTORS)]
        old = [self.load(where) for where in tops]
        new = self.column_tops(old, keys)
        # A row without keys so far has the maximum -inf: its weights are 2**(-inf - 0).
        safe = [top.eq(-INF).where(0.0, top) for top in new]
        rescale = [power_of_two(a - b) for a, b in zip(old, safe)]
        for where, top in zip(tops, new):
            self.store(where, top)
        totals = [self.load(where) * r for where, r in zip(sums, rescale)]
        for where, total in zip(sums, self.column_weights(safe, totals, keys)):
            self.store(where, total)
        return rescale

    def column_tops(self, old: list[Value], keys: Any) -> list[Value]:
        """Maxima of the scores of each query, and of `old`; NaN is passed over."""

        def line(key: Any, *tops: Any) -> list[Any]:
            corner = self.cell(self.scores.base, (key, self.width))
            results = []
            for v, top in enumerate(tops):
                score = self.load(self.at(corner, v * self.lanes))
                known = Value(self.space, top, self.dtype)
                results.append(score.gt(known).where(score, known).raw)
            return results

        found = self.loop(I64(0), keys, 1, line, [value.raw for value in old])
        return [Value(self.space, raw, self.dtype) for raw in found]

    def column_weights(self, tops: list[Value], totals: list[Value], keys: Any) -> list[Value]:
        """Powers of two in the place of scores; returns totals with them added."""

        def line(key: Any, *sums: Any) -> list[Any]:
            corner = self.cell(self.scores.base, (key, self.width))
            results = []
            for v, raw in enumerate(sums):
                where = self.at(corner, v * self.lanes)
                weight = power_of_two(self.load(where) - tops[v])
                self.store(where, weight)
                results.append((Value(self.space, raw, self.dtype) + weight).raw)
            return results

        found = self.loop(I64(0), keys, 1, line, [value.raw for value in totals])
        begin, end = (self.builder.mul(n, I64(self.width)) for n in (keys, self.up(keys, UNROLL)))
        self.clear(self.scores.base, begin, end, VECTORS)
        return [Value(self.space, raw, self.dtype) for raw in found]

    def accumulate(self, panel: Any, keys: Any, rescale: list[Value]) -> None:
        """panel[n, lane] = rescale * panel[n, lane] + sum over keys of value[key, n] * weight."""
        depth = self.up(keys, UNROLL)

        def some(row: Any, count: int) -> None:
            corner = self.cell(panel, (row, self.width))

            def place(r: int, v: int) -> Any:
                return self.at(corner, r * self.width + v * self.lanes)

            self.block(
                (count, VECTORS), depth,
                Matrix(self.at(self.values, row), 1, self.numbers), self.scores,
                lambda r, v: self.load(place(r, v)) * rescale[v],
                lambda r, v, total: self.store(place(r, v), total),
            )  # fmt: skip

        self.row_blocks(self.numbers, some)

    # The end of a block --------------------------------------------------------------------------

    def finish(self, query: Any, first: Any, places: dict[int, Any]) -> None:
        """Divide by the sums and store."""
        factors, logs = [], []
        for v in range(VECTORS):
            here = self.builder.add(query, I64(v * self.lanes))
            top, total = self.load(self.at(self.tops, here)), self.load(self.at(self.sums, here))
            total = total.eq(0.0).where(1.0, total)
            factors.append(1.0 / total)
            safe = top.eq(-INF).where(0.0, top)
            logs.append((safe + call_math("log2", total)) * LN_2)
        if places[OUT] is not None:
            self.unpack_panel(self.panel(self.totals, query), OUT, places[OUT], first, factors)
        if places[LOGSUMEXP] is not None:
            rows = self.rows_at(LOGSUMEXP, places[LOGSUMEXP], first, self.queries, self.width)
            for v in range(VECTORS):
                begin = v * self.lanes
                left = self.builder.sub(self.queries, self.builder.add(first, I64(begin)))
                self.scatter(logs[v], rows[begin : begin + self.lanes], left)
