"""Attention of a few queries, one by one: what generating a text token by token asks for.

The numbers of a key or value stand in the lanes, and both are read where they lie. Scores of a
tile of keys are summed as many at a time as there are lanes, and turned so that they lie side by
side. Must not know how queries are shared out.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.attention_tiles import INF, LN_2, LOG2_E, Heads, power_of_two
from plait.backends.llvm.native.emit_index import I64
from plait.backends.llvm.native.mathfns import call_math
from plait.backends.llvm.native.vector import Value
from plait.backends.llvm.plan import ATTENTION_MASK

__all__ = ["Rows"]

KEY, VALUE, OUT, LOGSUMEXP = 1, 2, 4, 5
GROUP = 8
"""Vectors of values that are summed in registers together."""
I32 = ir.IntType(32)


class Rows:
    """Emits one query at a time into the function of `heads`."""

    def __init__(self, heads: Heads) -> None:
        self.h = heads
        self.vectors = -(-heads.numbers // heads.lanes)
        self.padded = self.vectors * heads.lanes
        self.keys = heads.form.tile[1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Scratch memory: the query, its sums, and the scores of a tile of keys."""
        return (self.padded, self.padded, self.keys + self.h.lanes)

    def use(self, rooms: list[Any]) -> None:
        """Take scratch memory of these lengths."""
        self.query, self.totals, self.scores = rooms

    # Rows in memory ------------------------------------------------------------------------------

    def _mask(self, vector: int) -> Value | None:
        """The lanes that exist of a vector of a row; None for all."""
        h = self.h
        left = h.numbers - vector * h.lanes
        if left >= h.lanes:
            return None
        bits = [ir.IntType(1)(lane < left) for lane in range(h.lanes)]
        return Value(h.space, ir.Constant(ir.VectorType(ir.IntType(1), h.lanes), bits), "i1")

    def load(self, row: Any, vector: int) -> Value:
        """A vector of a row; zero in lanes that do not exist."""
        h, mask = self.h, self._mask(vector)
        where = h.at(row, vector * h.lanes)
        if mask is None:
            return h.load(where)
        kind = h.space.type(h.dtype)
        args = [where, I32(h.bytes), mask.raw, ir.Constant(kind, None)]
        raw = h.space.intrinsic("llvm.masked.load", kind, args, [kind, where.type])
        return Value(h.space, raw, h.dtype)

    def store(self, row: Any, vector: int, value: Value) -> None:
        """Store a vector of a row."""
        h, mask = self.h, self._mask(vector)
        where = h.at(row, vector * h.lanes)
        if mask is None:
            h.store(where, value)
        else:
            args = [value.raw, where, I32(h.bytes), mask.raw]
            kinds = [value.raw.type, where.type]
            h.space.intrinsic("llvm.masked.store", ir.VoidType(), args, kinds)

    # One query -----------------------------------------------------------------------------------

    def row(self, query: Any, places: dict[int, Any]) -> None:
        """Everything for query number `query` of a head."""
        h, builder = self.h, self.h.builder
        source = h.moved(0, places[0], query)
        zero = h.space.const(h.dtype, 0.0)
        for v in range(self.vectors):
            h.store(h.at(self.query, v * h.lanes), self.load(source, v) * (h.form.scale * LOG2_E))
            h.store(h.at(self.totals, v * h.lanes), zero)
        stop = h.keys
        if h.form.is_causal:
            stop = h.least(stop, builder.add(query, I64(1)))

        def tile(key: Any, top: Any, total: Any) -> list[Any]:
            count = h.least(I64(self.keys), builder.sub(stop, key))
            self._score(places[KEY], key, count)
            if h.form.mask:
                base = h.moved(ATTENTION_MASK, places[ATTENTION_MASK], query)
                self._add_mask(h.moved(ATTENTION_MASK, base, key, 3), count)
            return self._weigh(places[VALUE], key, count, top, total)

        start = [h.element(-INF), h.element(0.0)]
        top, total = h.loop(I64(0), stop, self.keys, tile, start)
        self._finish(query, places, h.scalar.value(top, h.dtype), h.scalar.value(total, h.dtype))

    def _score(self, base: Any, first: Any, count: Any) -> None:
        """scores[k] = query . key (first + k); -inf from `count` to a whole vector."""
        h, builder = self.h, self.h.builder
        last = builder.sub(h.keys, I64(1))

        def some(key: Any) -> None:
            rows = h.rows_at(KEY, base, builder.add(first, key), last, h.lanes)
            sums = [h.space.const(h.dtype, 0.0)] * h.lanes
            for v in range(self.vectors):
                factor = h.load(h.at(self.query, v * h.lanes))
                sums = [self.load(row, v).fma(factor, total) for row, total in zip(rows, sums)]
            turned = h.transposed(sums)
            while len(turned) > 1:
                turned = [a + b for a, b in zip(turned[::2], turned[1::2])]
            left = h.space.splat(builder.sub(count, key), "i64")
            exists = h.space.iota("i64").lt(left)
            h.store(h.at(self.scores, key), exists.where(turned[0], -INF))

        h.loop(I64(0), count, h.lanes, some)

    def _add_mask(self, base: Any, count: Any) -> None:
        h = self.h

        def one(key: Any) -> None:
            where = h.at(self.scores, key)
            bias, score = h.mask_number(h.moved(ATTENTION_MASK, base, key, 3)), h.number(where)
            if h.form.mask == "i1":
                h.put(where, bias.eq(0.0).where(score, -INF))
            else:
                h.put(where, bias.fma(LOG2_E, score))

        h.loop(I64(0), count, 1, one)

    def _weigh(self, base: Any, first: Any, count: Any, top: Any, total: Any) -> list[Any]:
        """Add the values of a tile by their weights; returns the new maximum and sum."""
        h = self.h

        def highest(key: Any, best: Any) -> list[Any]:
            score, known = h.load(h.at(self.scores, key)), Value(h.space, best, h.dtype)
            return [score.gt(known).where(score, known).raw]

        old = h.scalar.value(top, h.dtype)
        (tops,) = h.loop(I64(0), count, h.lanes, highest, [h.spread(old).raw])
        new = h.all_reduced("fmax", Value(h.space, tops, h.dtype))
        safe = new.eq(-INF).where(0.0, new)
        rescale = power_of_two(old - safe)

        def weight(key: Any, sums: Any) -> list[Any]:
            where = h.at(self.scores, key)
            value = power_of_two(h.load(where) - h.spread(safe))
            h.store(where, value)
            return [(Value(h.space, sums, h.dtype) + value).raw]

        zero = h.space.const(h.dtype, 0.0)
        (sums,) = h.loop(I64(0), count, h.lanes, weight, [zero.raw])
        added = h.all_reduced("fadd", Value(h.space, sums, h.dtype))
        for begin in range(0, self.vectors, GROUP):
            vectors = range(begin, min(begin + GROUP, self.vectors))
            self._add_values(base, first, count, rescale, vectors)
        return [new.raw, h.scalar.value(total, h.dtype).fma(rescale, added).raw]

    def _add_values(
        self, base: Any, first: Any, count: Any, rescale: Value, vectors: range
    ) -> None:
        """totals = totals * rescale + weights times values, for some vectors of a row."""
        h = self.h
        factor = h.spread(rescale)
        places = [h.at(self.totals, v * h.lanes) for v in vectors]

        def one(key: Any, *sums: Any) -> list[Any]:
            row = h.moved(VALUE, base, h.builder.add(first, key))
            weight = h.spread(h.number(h.at(self.scores, key)))
            return [
                self.load(row, v).fma(weight, Value(h.space, raw, h.dtype)).raw
                for v, raw in zip(vectors, sums)
            ]

        start = [(h.load(where) * factor).raw for where in places]
        for where, raw in zip(places, h.loop(I64(0), count, 1, one, start)):
            h.store(where, Value(h.space, raw, h.dtype))

    def _finish(self, query: Any, places: dict[int, Any], top: Value, total: Value) -> None:
        h = self.h
        total = total.eq(0.0).where(1.0, total)
        if places[OUT] is not None:
            inverse = h.spread(1.0 / total)
            target = h.moved(OUT, places[OUT], query)
            for v in range(self.vectors):
                self.store(target, v, h.load(h.at(self.totals, v * h.lanes)) * inverse)
        if places[LOGSUMEXP] is not None:
            safe = top.eq(-INF).where(0.0, top)
            logs = (safe + call_math("log2", total)) * LN_2
            h.put(h.moved(LOGSUMEXP, places[LOGSUMEXP], query), logs)
