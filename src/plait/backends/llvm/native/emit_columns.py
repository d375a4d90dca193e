"""Reductions down the columns: rows are walked outermost, with a row of accumulators in the cache.

For reductions whose values lie far apart but whose results lie side by side. A strip of columns is
reduced at a time, so that its accumulators stay in the first level cache and every row is read as
one contiguous run. Each column is summed in order of rows: strips cannot change a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plait.backends.llvm.loop.kernel import Store
from plait.backends.llvm.loop.terms import Axis, Term
from plait.backends.llvm.native.emit_index import I64, Frame, emit_scalar
from plait.backends.llvm.native.emit_memory import widen
from plait.backends.llvm.native.emit_reduce import Accumulators
from plait.backends.llvm.native.emit_terms import Scratch, inside, work
from plait.backends.llvm.native.vector import Space, Value, memory_type
from plait.symbolic.expr import as_int, const

if TYPE_CHECKING:
    from plait.backends.llvm.native.emit_loops import Nest

__all__ = ["STRIP", "Columns", "suits_columns"]

STRIP = 1024
"""Columns reduced together."""
LEAST_ROWS = 16
CHEAP = 8
"""Instructions of a value that is cheap beside its accumulator."""


def suits_columns(levels: list[list[Term]], axis: Axis) -> bool:
    """Whether reductions run down the columns of `axis`, far enough, and none inside another."""
    terms = [term for level in levels for term in level]
    for term in terms:
        rows: Axis = term.attr[1]
        extent = as_int(rows.extent)
        short = extent is not None and extent < LEAST_ROWS
        ragged = axis.name in {free.name for free in rows.extent.free_symbols}
        if axis.name not in term.symbols or short or ragged:
            return False
        if any(t.op == "reduce" and rows.name in t.symbols for t in inside(term.args, _never)):
            return False
    return bool(terms)


def _never(term: Term) -> bool:
    return False


class Columns:
    """Emits one range of columns of a kernel, strip by strip."""

    def __init__(self, nest: Nest, axis: Axis, frame: Frame, stores: Sequence[Store]) -> None:
        self.nest = nest
        self.builder = nest.builder
        self.axis = axis
        self.frame = frame
        self.stores = stores
        self.lanes = nest.native_lanes * 4

    def emit(self, levels: list[list[Term]], start: Any, stop: Any) -> None:
        """Columns from start to stop."""
        groups = [
            list(group)
            for level in levels
            for _, group in itertools.groupby(sorted(level, key=_rows_name), key=_rows_name)
        ]
        rows = [self._accumulator_rows(group) for group in groups]

        def strip(first: Any, _mask: Value | None, _carried: list[Any]) -> list[Any]:
            end = self.builder.add(first, I64(STRIP))
            end = self.builder.select(self.builder.icmp_signed("<", end, stop), end, stop)
            self.nest.terms.scratch = Scratch(self.axis.name)
            for group, own in zip(groups, rows):
                self._reduce(group, [self._shifted(*row, first) for row in own], first, end)
            self._along(first, end, self.frame, self._write)
            return []

        before = self.nest.terms.scratch
        self.nest.loop(start, stop, STRIP, [], strip)
        self.nest.terms.scratch = before

    def _accumulator_rows(self, group: list[Term]) -> list[tuple[Any, str]]:
        kinds = Accumulators(group, Space(self.builder, 1)).dtypes()
        return [(self.nest.row(kind, const(STRIP)), kind) for kind in kinds]

    def _shifted(self, row: Any, dtype: str, first: Any) -> tuple[Any, str]:
        """The row as if it began at column 0, so that columns index it."""
        back = self.builder.neg(first)
        return self.builder.gep(row, [back], source_etype=memory_type(dtype)), dtype

    def _along(self, first: Any, end: Any, frame: Frame, work: Any) -> None:
        """Call `work` with a frame for each vector of the strip."""

        def body(index: Any, mask: Value | None, _carried: list[Any]) -> list[Any]:
            work(self.nest.lane_frame(frame, self.axis.name, index, self.lanes, mask))
            return []

        extent = as_int(self.axis.extent)
        self.nest.vector_loop(first, end, self.lanes, extent, [], body)

    def _write(self, frame: Frame) -> None:
        self.nest.write(self.stores, frame)

    def _reduce(self, group: list[Term], rows: list[tuple[Any, str]], first: Any, end: Any) -> None:
        nest, memory = self.nest, self.nest.memory
        down: Axis = group[0].attr[1]
        accumulators = Accumulators(group, Space(self.builder, self.lanes))

        def places(frame: Frame) -> list[Any]:
            index = frame.symbol(self.axis.name)
            return [
                self.builder.gep(row, [index], source_etype=memory_type(dtype))
                for row, dtype in rows
            ]

        def clear(frame: Frame) -> None:
            for where, (_, dtype), raw in zip(places(frame), rows, accumulators.start()):
                memory.store_vector(where, frame.space.value(raw, dtype), None)

        def step(frame: Frame, lines: Sequence[Frame]) -> None:
            """Rows in their order onto one vector of the accumulators."""
            found = places(frame)
            carried = [
                memory.load_vector(where, dtype, frame.space, None).raw
                for where, (_, dtype) in zip(found, rows)
            ]
            for line in lines:
                inner = nest.lane_frame(
                    line, self.axis.name, frame.symbol(self.axis.name), self.lanes, frame.mask
                )
                values = [widen(nest.terms.evaluate(t, inner), inner.space) for t in inputs]
                row = line.symbol(down.name)
                carried = accumulators.step(carried, values, row, None, False)
            for where, (_, dtype), raw in zip(found, rows, carried):
                memory.store_vector(where, frame.space.value(raw, dtype), None)

        def some_rows(count: int, index: Any) -> list[Any]:
            lines = []
            for k in range(count):
                at = self.builder.add(index, I64(k))
                lines.append(Frame(self.frame, self.frame.space, {down.name: at}))
                nest.hoist(inputs, self.axis.name, lines[-1])
            self._along(first, end, self.frame, lambda frame: step(frame, lines))
            return []

        inputs = [term.args[0] for term in group]
        self._along(first, end, self.frame, clear)
        count = _rows_at_once(inputs, self.axis)
        extent = emit_scalar(down.extent, self.frame)
        whole = self.builder.and_(extent, I64(-count))
        nest.loop(I64(0), whole, count, [], lambda i, _mask, _carried: some_rows(count, i))
        if count > 1 and (as_int(down.extent) or 1) % count:
            nest.loop(whole, extent, 1, [], lambda i, _mask, _carried: some_rows(1, i))
        for term, row in zip(group, accumulators.results(rows)):
            nest.terms.scratch.rows[id(term)] = row[0]
            nest.terms.scratch.written.add(id(term))


def _rows_at_once(inputs: Sequence[Term], axis: Axis) -> int:
    """Rows that are added to a vector of accumulators while it is in a register.

    One where values are dear, or come from several tensors: reading many rows of each at once costs
    more than the accumulators do.
    """
    is_cheap = work(inputs, axis.name) <= CHEAP
    loads = {t for t in inside(inputs, _never) if t.op in ("load", "gather")}
    return 4 if is_cheap and len(loads) == 1 else 1


def _rows_name(term: Term) -> str:
    name: str = term.attr[1].name
    return name
