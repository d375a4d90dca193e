"""Loop nests of one kernel: passes over rows, reductions, vectors with their tails.

A *point* is one value of the outer axes. Inside it, reductions that only need the point are run as
passes over their axis (level by level of dependence, equal axes together), then the stores.
Sums over lanes and tails have an order fixed by the extent, so threads cannot change a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from plait.backends.llvm.loop.kernel import Kernel, Run, Store
from plait.backends.llvm.loop.terms import Axis, Term
from plait.backends.llvm.native.emit_columns import Columns, suits_columns
from plait.backends.llvm.native.emit_index import I64, Frame, emit_scalar, growth
from plait.backends.llvm.native.emit_memory import POINTER, Memory, total, widen
from plait.backends.llvm.native.emit_reduce import Accumulators
from plait.backends.llvm.native.emit_terms import Scratch, Terms, inside, stack_row, work
from plait.backends.llvm.native.emit_turned import Turned, turned_loads
from plait.backends.llvm.native.vector import BITS, Space, Value, memory_type
from plait.symbolic.expr import Expr, as_int

__all__ = ["TILE", "Nest"]

Body = Callable[[Any, Value | None, list[Any]], list[Any]]

I32, VOID = ir.IntType(32), ir.VoidType()
DEAR = 8
"""Values of at least this many instructions are kept between passes instead of computed again."""
STACK_ROW_BYTES = 1 << 16
MOST_ROWS = 4
TILE = 16
"""Rows done together by a kernel that reads along them: a cache line of f32."""
AT_ONCE = 2
"""Rows of a tile that are read before any of them is written: where rows are a power of two apart,
a load waits for the store of the row before, which looks like the same place to the processor.
"""


class Row(NamedTuple):
    """A contiguous row of a buffer, worth having in the cache."""

    start: Any
    dtype: str
    is_written: bool


class Nest:
    """Emits the loops of one kernel inside a function being built."""

    def __init__(
        self, kernel: Kernel, memory: Memory, sizes: dict[str, Any], vector_bits: int
    ) -> None:
        builder = memory.builder
        self.kernel = kernel
        self.sizes = sizes
        self.space = Space(builder, 1)
        self.heap_rows: list[Any] = []
        self.builder = builder
        self.memory = memory
        self.entry = builder.block
        self.vector_bits = vector_bits
        self.terms = Terms(memory, self._reduce_now)
        self.ahead: list[Row] = []
        self.coming: list[Row] = []
        self.rows: list[Row] = []
        self.native_lanes = vector_bits // self._element_bits()

    def _element_bits(self) -> int:
        """Bits of the narrowest element that counts: 32 unless everything is 64 bits wide."""
        every = inside(self.kernel.roots(), lambda term: False)
        widths = [max(BITS[t.dtype], 32) for t in every if t.op not in ("const", "index")]
        return min(widths, default=min(max(BITS[b.dtype], 32) for b in self.kernel.buffers))

    # Shapes of loops -----------------------------------------------------------------------------

    def loop(self, start: Any, stop: Any, step: int, carried: list[Any], body: Body) -> list[Any]:
        """for (i = start; i < stop; i += step) with carried values; returns their last values."""
        builder = self.builder
        before = builder.block
        inner, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", start, stop), inner, after)
        builder.position_at_end(inner)
        index = builder.phi(I64)
        index.add_incoming(start, before)
        values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(values, carried):
            phi.add_incoming(value, before)
        results = body(index, None, list(values))
        following = builder.add(index, I64(step), flags=("nsw",))
        latch = builder.block
        index.add_incoming(following, latch)
        for phi, value in zip(values, results):
            phi.add_incoming(value, latch)
        builder.cbranch(builder.icmp_signed("<", following, stop), inner, after)
        builder.position_at_end(after)
        return self._merge([(before, carried), (latch, results)])

    def _merge(self, incoming: list[tuple[Any, list[Any]]]) -> list[Any]:
        merged = []
        for column in zip(*(values for _, values in incoming)):
            phi = self.builder.phi(column[0].type)
            for (block, _), value in zip(incoming, column):
                phi.add_incoming(value, block)
            merged.append(phi)
        return merged

    def vector_loop(
        self, start: Any, stop: Any, lanes: int, extent: int | None, carried: list[Any], body: Body
    ) -> list[Any]:
        """Whole vectors, then one masked tail unless `extent` says that there is none."""
        builder = self.builder
        if lanes == 1:
            return self.loop(start, stop, 1, carried, body)
        if extent is not None and extent % lanes == 0:
            return self.loop(start, stop, lanes, carried, body)
        length = builder.sub(stop, start)
        middle = builder.add(start, builder.and_(length, I64(-lanes)))
        if extent is None or extent >= lanes:
            carried = self.loop(start, middle, lanes, carried, body)
        return self._tail(middle, stop, lanes, carried, body)

    def _tail(self, start: Any, stop: Any, lanes: int, carried: list[Any], body: Body) -> list[Any]:
        builder = self.builder
        before = builder.block
        self.terms.inline = False
        with builder.if_then(builder.icmp_signed("<", start, stop)):
            space = Space(builder, lanes)
            remaining = builder.trunc(builder.sub(stop, start), space.with_lanes(1).type("i32"))
            mask = space.iota("i32").lt(space.splat(remaining, "i32"))
            results = body(start, mask, carried)
            inner = builder.block
        self.terms.inline = True
        return self._merge([(before, carried), (inner, results)])

    # Points --------------------------------------------------------------------------------------

    def point(self, frame: Frame, depth: int, stores: Sequence[Store]) -> None:
        """Everything at one point of the first `depth` axes."""
        axes = self.kernel.axes
        deeper = [store for store in stores if store.depth > depth]
        roots = _roots(stores)
        last = depth == len(axes) - 1
        vector = bool(deeper) and last and frame.vector is None
        before = self.terms.scratch
        self.coming = self._rows_to_write(deeper, axes[depth], frame) if vector else []
        self._passes(
            roots, frame, _roots(deeper) if vector else [], axes[depth] if vector else None
        )
        if deeper:
            self.hoist(_roots(deeper), axes[depth].name, frame)
        if vector and depth:
            self.ahead = self._next_rows(_roots(stores), axes[depth], axes[depth - 1], frame)
        self.write([store for store in stores if store.depth == depth], frame)
        if not deeper:
            return
        if vector:
            extent = axes[depth].extent
            self.vector_axis(axes[depth], frame, deeper, I64(0), emit_scalar(extent, frame))
        else:
            self._scalar_axis(axes[depth], frame, deeper, depth)
        self.terms.scratch = before
        self.ahead = []

    # Rows are brought into the cache while others are computed: a row often ends with its page,
    # where the processor's own prefetching stops.

    def _rows_to_write(self, stores: Sequence[Store], axis: Axis, frame: Frame) -> list[Row]:
        """Rows of this point that will be stored contiguously."""
        return [
            self._row(store.buffer, store.offset, axis, frame, is_written=True)
            for store in stores
            if store.kind == "set" and not store.indices and self._is_row(store.offset, axis)
        ]

    def _next_rows(self, roots: list[Term], axis: Axis, outer: Axis, frame: Frame) -> list[Row]:
        """Rows that the next point will load contiguously."""
        rows: dict[Any, Row] = {}
        known = frame.bound | {axis.name}
        for term in inside(roots, lambda term: False):
            if term.op == "load" and outer.name in term.symbols and term.symbols <= known:
                buffer, offset = term.attr
                step = growth(offset, outer.name)
                if self._is_row(offset, axis) and step is not None:
                    row = self._row(buffer, offset + step, axis, frame, is_written=False)
                    rows[term.attr] = row
        return list(rows.values())

    def _is_row(self, offset: Expr, axis: Axis) -> bool:
        extent, step = as_int(axis.extent), growth(offset, axis.name)
        return (
            extent is not None and 256 <= extent <= 8192 and step is not None and as_int(step) == 1
        )

    def _row(self, buffer: int, offset: Expr, axis: Axis, frame: Frame, *, is_written: bool) -> Row:
        start = offset.substitute({s: 0 for s in offset.free_symbols if s.name == axis.name})
        where = self.memory.address(buffer, emit_scalar(start, frame))
        return Row(where, self.memory.dtypes[buffer], is_written)

    def _touch(self, rows: list[Row], index: Any, space: Space) -> None:
        """Prefetch what a vector at `index` covers of each row."""
        for row in rows:
            size = max(BITS[row.dtype] // 8, 1)
            kind = memory_type(row.dtype)
            for first in range(0, space.lanes, max(64 // size, 1)):
                at = self.builder.add(index, I64(first))
                where = self.builder.gep(row.start, [at], source_etype=kind)
                flags = [I32(int(row.is_written)), I32(3), I32(1)]
                space.intrinsic("llvm.prefetch", VOID, [where, *flags], [where.type])

    def elements(self, frame: Frame, begin: Any, end: Any) -> None:
        """A range of the only axis, by vectors."""
        axis, stores = self.kernel.axes[0], self.kernel.stores
        self._passes(_roots(stores), frame, [], None)
        self.hoist(_roots(stores), axis.name, frame)
        self.vector_axis(axis, frame, list(stores), begin, end)

    def tile(
        self, rows: Callable[[Any], Frame], axis: Axis, start: Any, stop: Any, frame: Frame
    ) -> None:
        """Rows from start to stop, together for each vector of the last axis.

        For loads that run along the rows: they meet the same cache lines while those are near.
        """
        stores, lanes = list(self.kernel.stores), self.native_lanes
        row_axis = self.kernel.axes[-2]
        loads = turned_loads(stores, axis, row_axis, self.memory) if TILE % lanes == 0 else []
        turned = Turned(self.memory, loads, self.entry, TILE)

        def one_by_one(index: Any, mask: Value | None) -> None:
            def row(item: Any, _mask: Value | None, _carried: list[Any]) -> list[Any]:
                self.write(stores, self.lane_frame(rows(item), axis.name, index, lanes, mask))
                return []

            self.loop(start, stop, 1, [], row)

        def together(index: Any) -> None:
            turned.fill(rows, start, axis, index, lanes)

            def some(item: Any, _mask: Value | None, _carried: list[Any]) -> list[Any]:
                items = [self.builder.add(item, I64(k)) for k in range(AT_ONCE)]
                frames = [self.lane_frame(rows(i), axis.name, index, lanes, None) for i in items]
                for i, inner in zip(items, frames, strict=True):
                    turned.bind(inner, self.builder.sub(i, start), lanes)
                values = [[self.terms.evaluate(s.value, f) for s in stores] for f in frames]
                for inner, row in zip(frames, values, strict=True):
                    for store, value in zip(stores, row, strict=True):
                        self.memory.store(store.buffer, store.offset, value, inner)
                return []

            self.loop(start, stop, AT_ONCE, [], some)

        def across(index: Any, mask: Value | None, _carried: list[Any]) -> list[Any]:
            if mask is not None or not loads:
                one_by_one(index, mask)
                return []
            with self.builder.if_else(is_whole) as (whole, part):
                with whole:
                    together(index)
                with part:
                    one_by_one(index, None)
            return []

        is_whole = self._is_whole_tile(rows(start), row_axis, start, stop)
        extent = axis.extent
        self.vector_loop(I64(0), emit_scalar(extent, frame), lanes, as_int(extent), [], across)

    def _is_whole_tile(self, first: Frame, axis: Axis, start: Any, stop: Any) -> Any:
        """Whether a tile has all its rows, and they are neighbours along one axis."""
        builder = self.builder
        is_full = builder.icmp_signed("==", builder.sub(stop, start), I64(TILE))
        end = builder.add(first.symbol(axis.name), I64(TILE))
        is_near = builder.icmp_signed("<=", end, emit_scalar(axis.extent, first))
        return builder.and_(is_full, is_near)

    def hoist_above(self, frame: Frame, axes: Sequence[Axis]) -> None:
        """Evaluate before the loop over items what depends on no axis at all."""
        roots = _roots(self.kernel.stores)
        if axes:
            self._passes(roots, frame, [], None)
            self.hoist(roots, axes[0].name, frame)

    def _scalar_axis(self, axis: Axis, frame: Frame, stores: list[Store], depth: int) -> None:
        def body(index: Any, _mask: Value | None, _carried: list[Any]) -> list[Any]:
            self.point(Frame(frame, frame.space, {axis.name: index}), depth + 1, stores)
            return []

        self.loop(I64(0), emit_scalar(axis.extent, frame), 1, [], body)

    def vector_axis(
        self, axis: Axis, frame: Frame, stores: Sequence[Store], start: Any, stop: Any
    ) -> None:
        """Stores over the innermost axis from start to stop, by vectors."""
        lanes = self._lanes(_roots(stores), axis, scalar=_must_be_scalar(stores, axis))
        levels = _levels(_roots(stores), frame, axis.name)
        if lanes > 1 and suits_columns(levels, axis):
            Columns(self, axis, frame, stores).emit(levels, start, stop)
            return

        def body(index: Any, mask: Value | None, _carried: list[Any]) -> list[Any]:
            inner = self.lane_frame(frame, axis.name, index, lanes, mask)
            if mask is None:
                self._touch(self.ahead, index, inner.space)
            self._passes(_roots(stores), inner, [], None)
            self.write(stores, inner)
            return []

        self.vector_loop(start, stop, lanes, as_int(axis.extent), [], body)

    def lane_frame(
        self, frame: Frame, name: str, index: Any, lanes: int, mask: Value | None
    ) -> Frame:
        """A frame for one vector of an axis."""
        vector = name if lanes > 1 else None
        return Frame(frame, Space(self.builder, lanes), {name: index}, vector=vector, mask=mask)

    def _lanes(self, roots: list[Term], axis: Axis, *, scalar: bool = False) -> int:
        """Lanes of a loop: one to four registers, fewer for dear bodies and short extents."""
        if scalar:
            return 1
        amount = work(roots, axis.name)
        registers = 4 if amount <= 45 else 2 if amount <= 90 else 1
        lanes = self.native_lanes * registers
        extent = as_int(axis.extent)
        while extent is not None and lanes > self.native_lanes and extent % lanes:
            lanes //= 2
        while extent is not None and lanes > 2 and lanes >= 2 * extent:
            lanes //= 2
        return lanes

    def write(self, stores: Sequence[Store], frame: Frame) -> None:
        """Carry out stores at this point, or at each lane of it."""
        values = [self.terms.evaluate(store.value, frame) for store in stores]
        written: set[int] = set()
        for number, (store, value) in enumerate(zip(stores, values)):
            if number in written:
                continue
            found = self._pair(number, stores, frame) if frame.vector is not None else None
            if found is not None:
                written.add(found)
                self.memory.store_pair(store.buffer, store.offset, [value, values[found]], frame)
            elif store.indices:
                self._scatter(store, value, frame)
            elif store.kind == "add":
                old = self.memory.load(store.buffer, store.offset, frame, None)
                old = old if store.run is None else self._unless_first(store.run, old, frame)
                joined = total(widen(old, frame.space), widen(value, frame.space))
                self.memory.store(store.buffer, store.offset, joined, frame)
            else:
                self.memory.store(store.buffer, store.offset, value, frame)

    def _unless_first(self, run: Run, old: Value, frame: Frame) -> Value:
        """What an add continues: zero in the first row of a run."""
        row = emit_scalar(run.row % run.length, frame)
        first = frame.space.with_lanes(1).value(row, "i64").eq(0)
        return widen(first, old.space).where(old.space.const(old.dtype, 0), old)

    def _pair(self, number: int, stores: Sequence[Store], frame: Frame) -> int | None:
        """Which later store writes the other part of the complex numbers of this one."""
        for after in range(number + 1, len(stores)):
            if self.memory.begins_pairs(stores[number], stores[after], frame):
                return after
        return None

    def _scatter(self, store: Store, value: Value, frame: Frame) -> None:
        """A store to computed places, checked; scalar, or contiguous over the lanes."""
        indices = [(self.terms.evaluate(i.term, frame), i.dim) for i in store.indices]
        self.memory.store_computed(store, indices, value, frame)

    # Passes --------------------------------------------------------------------------------------

    def _passes(
        self, roots: list[Term], frame: Frame, final: list[Term], axis: Axis | None
    ) -> None:
        """Run the reductions that `roots` need and that can run here, in order of dependence."""
        levels = _levels(roots, frame)
        groups = [
            list(group)
            for level in levels
            for _, group in itertools.groupby(sorted(level, key=_axis_key), key=_axis_key)
        ]
        before = self.terms.scratch
        if frame.vector is None:
            self.terms.scratch = self._plan_scratch(groups, final, axis)
        for group in groups:
            rows, self.rows = self.coming if group is groups[-1] else [], []
            self.coming = [] if group is groups[-1] else self.coming
            self.rows = rows
            self._pass(group, frame)
        if not final:
            self.terms.scratch = before

    def _pass(self, group: list[Term], frame: Frame) -> None:
        axis: Axis = group[0].attr[1]
        bodies = [term.args[0] for term in group]
        self._passes(bodies, frame, [], None) if _levels(bodies, frame) else None
        self.hoist(bodies, axis.name, frame)
        nested = any(
            t.op == "reduce" and axis.name in t.symbols for t in inside(bodies, lambda t: False)
        )
        by_lane = frame.vector is None and not nested
        lanes = self._lanes(bodies, axis) if by_lane else frame.lanes
        accumulators = Accumulators(group, Space(self.builder, lanes))
        rows, self.rows = self.rows, []

        def body(index: Any, mask: Value | None, carried: list[Any]) -> list[Any]:
            if by_lane:
                inner = self.lane_frame(frame, axis.name, index, lanes, mask)
                if mask is None:
                    self._touch(rows, index, inner.space)
            else:
                inner = Frame(
                    frame, frame.space, {axis.name: index}, vector=frame.vector, mask=frame.mask
                )
                self._passes(bodies, inner, [], None)
            values = [widen(self.terms.evaluate(b, inner), inner.space) for b in bodies]
            return accumulators.step(carried, values, index, mask, by_lane)

        stop = emit_scalar(axis.extent, frame)
        step = lanes if by_lane else 1
        extent = as_int(axis.extent)
        results = self.vector_loop(I64(0), stop, step, extent, accumulators.start(), body)
        values = accumulators.finish(results, by_lane=by_lane and lanes > 1)
        for term, value in zip(group, values):
            frame.terms[id(term)] = value
        if by_lane:
            for row in self.terms.scratch.rows:
                if any(id(t) == row for t in inside(bodies, lambda t: t.op == "reduce")):
                    self.terms.scratch.written.add(row)

    def _reduce_now(self, term: Term, frame: Frame) -> Value:
        """A reduction met while evaluating, not foreseen by `_passes`."""
        self._passes([term], frame, [], None)
        found = frame.find(id(term))
        assert found is not None
        return found

    def hoist(self, roots: list[Term], axis: str, frame: Frame) -> None:
        """Evaluate here what the loop over `axis` needs and does not change."""

        def is_invariant(term: Term) -> bool:
            if axis in term.symbols or not term.symbols <= frame.bound:
                if term.op == "gather" and self._has_fixed_place(term, axis, frame):
                    self.terms.prepare_gather(term, frame)
                return False
            if term.op != "const":
                self.terms.evaluate(term, frame)
            return True

        for _ in inside(roots, is_invariant):
            pass

    def _has_fixed_place(self, term: Term, axis: str, frame: Frame) -> bool:
        """Whether a gather runs along `axis` from a place that does not depend on it."""
        attr = term.attr
        names = {s.name for d in attr.dims for e in (d.stride, d.size) for s in e.free_symbols}
        for arg in term.args:
            names |= arg.symbols
        return axis not in names and names <= frame.bound and len(term.args) == len(attr.dims)

    def _plan_scratch(
        self, groups: list[list[Term]], final: list[Term], axis: Axis | None
    ) -> Scratch:
        """Choose the dear values that several passes over the row share, and give each a row."""
        passes = [[term.args[0] for term in group] for group in groups] + ([final] if final else [])
        names = {_axis_key(group[0]) for group in groups} | ({axis.name} if axis else set())
        if len(passes) < 2 or len(names) != 1:
            return Scratch()
        first: Axis = axis or groups[0][0].attr[1]
        if not {free.name for free in first.extent.free_symbols} <= self.sizes.keys():
            return Scratch()
        scratch = Scratch(first.name)
        for term in shared_values(passes, first.name)[:MOST_ROWS]:
            scratch.rows[id(term)] = self.row(term.dtype, first.extent)
        return scratch

    def row(self, dtype: str, extent: Expr) -> Any:
        """Room for one row and a vector more: on the stack if it is short, else from the heap."""
        count, size = as_int(extent), max(BITS[dtype] // 8, 1)
        extra = 8 * self.native_lanes
        if count is not None and (count + extra) * size <= STACK_ROW_BYTES:
            return stack_row(self.builder, self.entry, (count + extra) * size)
        with self.builder.goto_block(self.entry):
            amount = emit_scalar((extent + extra) * size, Frame(None, self.space, self.sizes))
            row = self.builder.call(self._heap("malloc", POINTER, I64), [amount])
        self.heap_rows.append(row)
        return row

    def _heap(self, name: str, result: Any, argument: Any) -> Any:
        module = self.builder.module
        kind = ir.FunctionType(result, [argument])
        return module.globals.get(name) or ir.Function(module, kind, name)

    def finish(self) -> None:
        """Give back what the kernel took."""
        for row in self.heap_rows:
            self.builder.call(self._heap("free", VOID, POINTER), [row])


def shared_values(passes: list[list[Term]], axis: str) -> list[Term]:
    """Dear terms of later passes that an earlier pass has evaluated; outermost ones only."""

    def stop(term: Term) -> bool:
        return axis not in term.symbols or term.op == "reduce"

    seen: set[int] = set()
    chosen: dict[int, Term] = {}
    for roots in passes:

        def is_shared(term: Term) -> bool:
            if stop(term):
                return True
            if id(term) in seen and term.dtype != "i1" and _is_dear(term, axis):
                chosen[id(term)] = term
                return True
            return False

        for _ in inside(roots, is_shared):
            pass
        seen.update(id(term) for term in inside(roots, stop))
    return list(chosen.values())


def _is_dear(term: Term, axis: str) -> bool:
    return term.op != "load" and work([term], axis) >= DEAR


def _roots(stores: Sequence[Store]) -> list[Term]:
    return [term for s in stores for term in (s.value, *(i.term for i in s.indices))]


def _axis_key(term: Term) -> str:
    name: str = term.attr[1].name
    return name


def _levels(roots: list[Term], frame: Frame, lane: str = "") -> list[list[Term]]:
    """Reductions under `roots` that this frame can run and has not, by depth of dependence.

    `lane`: an axis that is about to run over lanes of the frame.
    """
    bound = frame.bound | {lane}
    level_of: dict[int, int] = {}
    levels: list[list[Term]] = []

    def is_known(term: Term) -> bool:
        return frame.find(id(term)) is not None

    for term in inside(roots, is_known):
        level = max((level_of.get(id(arg), 0) for arg in term.args), default=0)
        if term.op == "reduce" and term.symbols <= bound:
            while len(levels) <= level:
                levels.append([])
            levels[level].append(term)
            level += 1
        level_of[id(term)] = level
    return levels


def _must_be_scalar(stores: Sequence[Store], axis: Axis) -> bool:
    """Whether some store must run element by element: places computed anew for each element."""
    for store in stores:
        if any(axis.name in index.term.symbols for index in store.indices):
            return True
        if store.kind == "add" or store.indices:
            step = growth(store.offset, axis.name)
            if step is None or as_int(step) != 1:
                return True
    return False
