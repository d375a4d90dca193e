"""Scheduling: which stages are stored, and which stored stages share a kernel.

A *unit* is one stored computation: a map, a reduction, a piece of an assembled buffer, or a matrix
product. Units are probed for what they read and at which flat positions; units that walk the same
space, and read each other only where they stand, are put in one *group*, which becomes one kernel.
Whether two groups fit is `fitting`'s to say.
Must not know operators, terms' meaning, or LLVM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plait.backends.llvm.batching import arrange
from plait.backends.llvm.column_sums import SIBLINGS, chunk_columns, columns_beside_rows
from plait.backends.llvm.evaluate import Evaluator
from plait.backends.llvm.fitting import why_apart
from plait.backends.llvm.groups import Group, Unit, UnitKind
from plait.backends.llvm.layouts import (
    attention_layouts,
    linear_layout,
    position_in_root,
    product_layout,
)
from plait.backends.llvm.loop.builder import DynamicIndex
from plait.backends.llvm.loop.indexing import (
    ONE,
    ZERO,
    contiguous,
    dense_or_contiguous,
    flatten,
)
from plait.backends.llvm.loop.terms import Axis
from plait.backends.llvm.lowering.stage import (
    Index,
    NotIndexable,
    Piece,
    Stage,
    map_stage,
    root_of,
)
from plait.backends.llvm.reuse import Reuse, Wish, reuse_inputs
from plait.backends.llvm.switches import is_off, off_reason
from plait.symbolic.expr import Expr, product

__all__ = ["Schedule", "schedule"]

CHEAP = 4  # a map of this inline cost is recomputed rather than stored when read twice
_ALWAYS_STORED = {
    "reduce": "a reduction",
    "gemm": "a matrix product",
    "assemble": "written piece by piece",
    "attention": "attention",
    "result": "results of one step",
}
DEEP = 24  # maps computed inside each other: a bound on recursion, not on fusion


@dataclass(slots=True)
class Schedule:
    """The groups in an order in which they can run, what is stored, and why."""

    groups: list[Group]
    stored: set[Stage]
    """Stages that occupy a buffer."""
    realised: set[Stage]
    """Stages computed by a unit (a superset of `stored`)."""
    reasons: dict[Stage, str]
    reuse: Reuse
    """Which results are written into inputs."""


# ---------------------------------------------------------------- what is stored


def topological(roots: Iterable[Stage]) -> list[Stage]:
    """Every stage under `roots`, inputs before users."""
    order: list[Stage] = []
    done: set[Stage] = set()
    stack: list[tuple[Stage, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        stage, ready = stack.pop()
        if ready:
            order.append(stage)
        elif stage not in done:
            done.add(stage)
            stack.append((stage, True))
            stack.extend((s, False) for s in reversed(stage.inputs) if s not in done)
    return order


class _Storage:
    """Decides which stages are computed by units of their own."""

    def __init__(self, stages: list[Stage], outputs: Iterable[Stage]) -> None:
        self.stages = stages
        self.realised: set[Stage] = set()
        self.reasons: dict[Stage, str] = {}
        self.inline_cost: dict[Stage, int] = {}
        self.inline_depth: dict[Stage, int] = {}
        self.copies: dict[Stage, Stage] = {}
        self.users: dict[Stage, list[Stage]] = {}
        for stage in outputs:
            self.realise(stage, "an output")
        for stage in stages:
            self._mandatory(stage)
            self._switched_off(stage)
        self.stages = topological(stages)  # now with copies
        self.users = self._users()
        for stage in self.stages:
            self._optional(stage)

    def realise(self, stage: Stage, reason: str) -> None:
        """Give `stage` a unit."""
        if stage.kind != "input" and stage not in self.realised:
            if stage.kind == "view":
                stage.strides = dense_or_contiguous(stage.shape, stage.strides)
            self.realised.add(stage)
            self.reasons[stage] = reason

    def _users(self) -> dict[Stage, list[Stage]]:
        users: dict[Stage, list[Stage]] = {stage: [] for stage in self.stages}
        for stage in self.stages:
            if stage.kind != "view":
                for source in dict.fromkeys(map(root_of, stage.inputs)):
                    users[source].append(stage)
        return users

    def _mandatory(self, stage: Stage) -> None:
        if stage.kind in _ALWAYS_STORED:
            self.realise(stage, _ALWAYS_STORED[stage.kind])
        if stage.kind == "attention":
            layouts = attention_layouts(stage, self.realised)
            stage.inputs = tuple(
                self._copied(operand)
                if found is None
                else self._in_place(operand, found[0], "attention")
                for operand, found in zip(stage.inputs, layouts)
            )
        if stage.kind == "gemm":
            layout = product_layout(stage, self.realised)
            stage.inputs = tuple(
                self._copied(operand) if found is None else self._in_place(operand, found[0])
                for operand, found in zip(stage.inputs, layout.operands)
            )

    def _switched_off(self, stage: Stage) -> None:
        """Store what `PLAIT_FUSION_OFF` keeps from being computed where it is read."""
        if stage.kind in ("map", "reduce") and is_off("views"):
            for source in stage.inputs:
                if source.kind == "view" and not _is_reshaped(source):
                    self.realise(source, off_reason("views"))
        if stage.kind == "reduce" and stage.inputs[0].kind == "map" and is_off("reductions"):
            self.realise(stage.inputs[0], off_reason("reductions"))

    def _in_place(self, operand: Stage, root: Stage, reader: str = "a matrix product") -> Stage:
        self.realise(root, f"read by {reader}")
        return operand

    def _copied(self, operand: Stage) -> Stage:
        """A copy of an operand that BLAS cannot read in place."""
        if operand not in self.copies:
            self.copies[operand] = map_stage(
                f"{operand.name}_copy", "copy", operand.shape, operand.dtype, [operand],
                lambda read, index: read(operand, index), cost=0,
            )  # fmt: skip
            self.realise(self.copies[operand], "a layout that matrix products can read")
        return self.copies[operand]

    def _optional(self, stage: Stage) -> None:
        """A map is stored when recomputing it where it is read would cost more."""
        if stage.kind != "map" or self._is_looked_through(stage):
            return
        below = [root_of(source) for source in stage.inputs]
        cost = stage.cost + sum(self.inline_cost.get(s, 0) for s in dict.fromkeys(below))
        users = self.users[stage]
        if stage in self.realised:
            return
        if len(users) > 1 and (cost > CHEAP or self._memory_reads(stage) > 1):
            self.realise(stage, f"read by {len(users)} computations")
        elif cost >= CHEAP and any(_repeats(stage, user) for user in users):
            self.realise(stage, "read many times by one computation")
        elif self._depth(below) > DEEP:
            self.realise(stage, "a long chain")
        else:
            self.inline_cost[stage] = cost
            self.inline_depth[stage] = self._depth(below)

    def _is_looked_through(self, stage: Stage) -> bool:
        """Whether only products read this copy, and read what is under it instead."""
        return (
            stage.is_copy
            and stage not in self.realised
            and all(user.kind in ("gemm", "attention") for user in self.users[stage])
        )

    def _depth(self, below: list[Stage]) -> int:
        return 1 + max((self.inline_depth.get(s, 0) for s in below), default=0)

    def _memory_reads(self, stage: Stage) -> int:
        """How many tensors as large as `stage` are read to compute it."""
        found: set[Stage] = set()
        stack = list(stage.inputs)
        while stack:
            source = stack.pop()
            if source.kind == "view" or (source.kind == "map" and source not in self.realised):
                stack.extend(source.inputs)
            elif source.numel is stage.numel:
                found.add(source)
        return len(found)


def _is_reshaped(view: Stage) -> bool:
    """Whether a view shows all elements in the order in which they lie in memory."""
    found = linear_layout(view, ())
    if found is None or found[0].numel is not view.numel:
        return False
    return dense_or_contiguous(view.shape, found[1]) == found[1] == contiguous(view.shape)


def _repeats(stage: Stage, user: Stage) -> bool:
    """Whether `user` walks more points than `stage` has."""
    if user.kind == "assemble":
        return False
    space = user.inputs[0].numel if user.kind == "reduce" else user.numel
    return space is not stage.numel


# ---------------------------------------------------------------- units


class _Scheduler:
    def __init__(self, storage: _Storage, chunked: set[Stage]) -> None:
        self.storage = storage
        self.chunked = chunked
        """Column sums of which the chunks are left to add."""
        self.groups: dict[int, Group] = {}
        self.home: dict[Stage, list[Unit]] = {}
        self.group_of: dict[Unit, int] = {}
        self.readers: dict[Stage, list[int]] = {}

    def units_of(self, stage: Stage) -> list[Unit]:
        """The units that write the buffer of a realised stage."""
        if stage.kind == "result":
            self.home[stage] = self.home[stage.inputs[0]]
            return []
        if stage.kind in ("gemm", "attention"):
            unit = Unit(stage, stage, "gemm" if stage.kind == "gemm" else "attention")
            for operand in stage.inputs:
                root, _ = position_in_root(operand, self.storage.realised, through_copies=True)
                unit.reads.setdefault(root, [None])
            return [unit]
        if stage.kind == "assemble":
            return [self._probe(Unit(p.source, stage, _piece_kind(p), p)) for p in stage.pieces]
        kind: UnitKind = "map"
        if stage.kind == "reduce":
            kind = "row" if reduces_rows(stage) else "column"
        return [self._probe(Unit(stage, stage, kind))]

    def _probe(self, unit: Unit) -> Unit:
        """Fill in the space that a unit walks and what it reads there."""
        stage, realised = unit.stage, self.storage.realised
        unit.order = stage.order
        unit.dims = tuple(stage.shape[d] for d in unit.order)
        unit.axes = tuple(Axis(f"p{k}", size) for k, size in enumerate(unit.dims))
        symbols = tuple(ZERO if a.extent is ONE else a.symbol for a in unit.axes)
        unit.flat = unit.full = flatten(symbols, unit.dims)

        def on_load(read: Stage, index: Index) -> None:
            unit.reads.setdefault(read, []).append(flat_position(read, index))

        reader = Evaluator(lambda s: s.kind == "input" or s in realised, on_load)
        index = tuple(symbols[unit.order.index(d)] for d in range(len(stage.shape)))
        reader.compute(stage, index)
        if unit.piece is not None:
            unit.piece.place(reader, index)
        if stage.kind == "reduce":
            self._inner(unit, reader, index)
        for read, positions in unit.reads.items():
            unit.reads[read] = list(dict.fromkeys(positions))
        return unit

    def _inner(self, unit: Unit, reader: Evaluator, index: Index) -> None:
        stage = unit.stage
        source = stage.inputs[0]
        axes = dict(zip(stage.dims, reader.reduce_axes(stage, index)))
        order = [d for d in source.order if d in axes]
        unit.inner = tuple(source.shape[d] for d in order)
        if stage.ragged is None:
            symbols = [ZERO if axes[d].extent is ONE else axes[d].symbol for d in order]
            unit.full = unit.flat * product(unit.inner) + flatten(symbols, unit.inner)
        else:
            unit.full = Axis("ragged", ONE).symbol

    # ------------------------------------------------------------ grouping

    def place(self, unit: Unit) -> None:
        """Put a unit in a group of its own, then join it with groups that it fits."""
        number = len(self.group_of)
        group = self.groups[number] = Group(number, unit)
        self.group_of[unit] = number
        self.home.setdefault(unit.target, []).append(unit)
        for read in unit.reads:
            for producer in self.home.get(read, ()):
                if producer is not unit:
                    group.deps.add(self.group_of[producer])
        if unit.kind in ("scatter", "sum"):
            group.deps |= {self.group_of[u] for u in self.home[unit.target] if u is not unit}
        for dep in group.deps:
            group.ancestors |= {dep, *self.groups[dep].ancestors}
        for candidate in self._candidates(unit, group):
            if candidate in self.groups and candidate != self.group_of[unit]:
                self._try_join(self.group_of[unit], candidate)
        for read in unit.reads:
            self.readers.setdefault(read, []).append(self.group_of[unit])

    def _candidates(self, unit: Unit, group: Group) -> list[int]:
        """Groups that make what the unit reads, then groups that read what it reads.

        Parts of one complex number are written together, and read together.
        """
        found: dict[int, None] = dict.fromkeys(sorted(group.deps, reverse=True))
        if unit.target.parts is not None:
            others = self.home.get(unit.target, ())
            found.update(dict.fromkeys(self.group_of[other] for other in others))
        for read in unit.reads:
            size = read.numel if read.parts is None else read.numel // 2
            if size is unit.space:
                found.update(dict.fromkeys(reversed(self.readers.get(read, ())[-16:])))
        if unit.stage in self.chunked:
            alike = [self.group_of[u] for u in self.group_of if u.stage in self.chunked]
            found.update(dict.fromkeys(alike[-SIBLINGS:-1]))
        return list(found)

    def _try_join(self, late: int, early: int) -> None:
        a, b = self.groups[early], self.groups[late]
        if not self._is_acyclic(a, b) or why_apart(a, b) is not None:
            return
        a.units.extend(b.units)
        a.deps = (a.deps | b.deps) - {early, late}
        a.ancestors = (a.ancestors | b.ancestors) - {early, late}
        del self.groups[late]
        for unit in b.units:
            self.group_of[unit] = early
        for group in self.groups.values():
            if late in group.deps:
                group.deps = (group.deps - {late}) | {early}
            if group is not a and group.ancestors & {early, late}:
                group.ancestors = (group.ancestors - {late}) | {early} | a.ancestors
        for read in {read: None for unit in b.units for read in unit.reads}:
            numbers = self.readers.get(read, [])
            numbers[:] = [early if n == late else n for n in numbers]

    def _is_acyclic(self, a: Group, b: Group) -> bool:
        """Whether no third group lies on a path between the two."""
        pair = {a.number, b.number}
        for x, y in ((a, b), (b, a)):
            for dep in y.deps - pair:
                if x.number in self.groups[dep].ancestors:
                    return False
        return True


def _piece_kind(piece: Piece) -> UnitKind:
    if piece.kind == "sum":
        return "sum"
    return "map" if piece.kind == "set" else "scatter"


def reduces_rows(stage: Stage) -> bool:
    """Whether the fastest dimension in memory is reduced over (and rows are worth a kernel)."""
    source = stage.inputs[0]
    order = [d for d in source.order if source.shape[d] is not ONE]
    return bool(order) and order[-1] in stage.dims


def flat_position(stage: Stage, index: Index) -> Expr | None:
    """Where an element stands in the memory of `stage`; None for a computed index."""
    total = ZERO
    for position, stride in zip(index, stage.strides, strict=True):
        if isinstance(position, DynamicIndex):
            return None
        total = total + position * stride
    return total


# ---------------------------------------------------------------- the whole


def schedule(outputs: list[Stage], wishes: Sequence[Wish] = ()) -> Schedule:
    """Decide storage and kernels for everything that `outputs` need.

    `wishes` are outputs that may be written into inputs; `Schedule.reuse` says which are.
    """
    stages = topological(outputs)
    wanted = list(outputs)
    chunked: set[Stage] = set()
    while True:
        storage = _Storage(stages, wanted)
        scheduler = _Scheduler(storage, chunked)
        try:
            for stage in storage.stages:
                if stage in storage.realised:
                    for unit in scheduler.units_of(stage):
                        scheduler.place(unit)
        except NotIndexable as error:
            if error.stage in wanted:
                raise
            wanted.append(error.stage)
            continue
        columns = [] if is_off("siblings") else columns_beside_rows(scheduler.groups)
        if not columns:
            break
        chunk_columns(columns)
        chunked.update(columns)
        stages = topological(outputs)
    stored = _stored(scheduler, set(wanted))
    reuse = reuse_inputs(scheduler.groups, wishes)
    groups = arrange(_ordered(list(scheduler.groups.values())))
    return Schedule(groups, stored, storage.realised, storage.reasons, reuse)


def _stored(scheduler: _Scheduler, outputs: set[Stage]) -> set[Stage]:
    """Realised stages that something outside their group reads."""
    stored = {stage for stage in outputs if stage.kind != "input"}
    for unit, number in scheduler.group_of.items():
        if unit.kind in ("gemm", "scatter") or unit.piece is not None:
            stored.add(unit.target)
        for read in unit.reads:
            if any(scheduler.group_of[u] != number for u in scheduler.home.get(read, ())):
                stored.add(read)
    return stored


def _ordered(groups: list[Group]) -> list[Group]:
    """Groups after everything they depend on, otherwise in order of appearance."""
    by_number = {group.number: group for group in groups}
    done: dict[int, Group] = {}

    for group in sorted(groups, key=lambda g: g.number):
        stack = [group.number]
        while stack:
            current = by_number[stack[-1]]
            missing = [d for d in sorted(current.deps) if d not in done]
            if missing:
                stack.extend(reversed(missing))
                continue
            done.setdefault(current.number, current)
            stack.pop()
    return list(done.values())
