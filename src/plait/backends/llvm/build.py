"""From groups to loop kernels and product steps, still over stages instead of buffers.

Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plait.backends.llvm.evaluate import Evaluator
from plait.backends.llvm.fitting import common_dims
from plait.backends.llvm.groups import Group, Unit
from plait.backends.llvm.loop.indexing import ONE, ZERO, reindex
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, Run, ScatterIndex, Store
from plait.backends.llvm.loop.terms import Axis, GatherDim
from plait.backends.llvm.loop.transform import canonical, collapse
from plait.backends.llvm.loop.verify import verify_kernel
from plait.backends.llvm.lowering.stage import Index, Stage
from plait.backends.llvm.plan import Check
from plait.backends.llvm.schedule import Schedule
from plait.base.config import config
from plait.symbolic.expr import Expr, symbol

__all__ = ["BuiltKernel", "build_kernel"]

Role = Literal["in", "out", "inout"]


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """A canonical kernel with what its buffers, sizes and checks stand for."""

    kernel: Kernel
    buffers: tuple[Stage, ...]
    sizes: tuple[Expr, ...]
    checks: tuple[Check, ...]
    fused: tuple[str, ...]
    """Names of the values computed, in order."""
    ops: tuple[str, ...]
    """Operators behind them, in order, each once."""


def build_kernel(group: Group, schedule: Schedule) -> BuiltKernel:
    """The loops of one group."""
    return _Builder(group, schedule).build()


class _Builder:
    def __init__(self, group: Group, schedule: Schedule) -> None:
        self.units = group.units
        self.stored = schedule.stored
        own = group.stages
        realised = schedule.realised
        self.reader = Evaluator(lambda s: s.kind == "input" or (s in realised and s not in own))
        common = common_dims(self.units)
        assert common is not None or len(self.units) == 1
        outer, inner = common if common is not None else (self.units[0].dims, ())
        self.depth = len(outer)
        walks_rows = any(self._is_stored(u) and self._is_full(u) for u in self.units)
        self.dims = (*outer, *inner) if walks_rows else outer
        self.axes = tuple(Axis(f"i{k}", size) for k, size in enumerate(self.dims))
        self.symbols = tuple(ZERO if a.extent is ONE else a.symbol for a in self.axes)

    def _is_stored(self, unit: Unit) -> bool:
        return unit.target in self.stored

    def _is_full(self, unit: Unit) -> bool:
        """Whether the unit stores one element per point inside a row."""
        rows = [u for u in self.units if u.inner]
        return bool(rows) and unit.kind in ("map", "sum") and unit.points is not rows[0].points

    def build(self) -> BuiltKernel:
        stores = tuple(store for unit in self.units for store in self._store(unit))
        kernel = Kernel(self._name(), self._params(stores), (), self.axes, stores)
        kernel, sizes = canonical(collapse(kernel))
        if config.verify:
            verify_kernel(kernel)
        stages = tuple(self.reader.buffers)
        fused = tuple(unit.stage.name for unit in self.units)
        values = tuple(symbol(name) for name in sizes)
        checks = tuple(self.reader.checks)
        return BuiltKernel(kernel, stages, values, checks, fused, self._ops())

    def _ops(self) -> tuple[str, ...]:
        """Operators of everything computed here, also what was not a unit."""
        own = {unit.stage for unit in self.units}
        found: dict[str, None] = {}
        seen: set[Stage] = set()

        def visit(stage: Stage) -> None:
            if stage in seen or (self.reader.is_stored(stage) and stage not in own):
                return
            seen.add(stage)
            for source in stage.inputs:
                visit(source)
            if stage.kind != "view":
                found.setdefault(stage.op)

        for unit in self.units:
            visit(unit.stage)
        return tuple(found)

    def _name(self) -> str:
        ops = [op.strip("_") for op in self._ops() if op.isidentifier()]
        return "_".join(
            ops[:2] + (["etc"] if len(ops) > 3 else []) + ops[-1:] if len(ops) > 2 else ops
        )

    def _store(self, unit: Unit) -> list[Store]:
        if self._is_full(unit) and len(self.dims) == self.depth:
            return []  # an element-wise unit nobody stores: computed inside the reductions
        index = self._index(unit)
        value = self.reader.compute(unit.stage, index)  # also when unstored: deep chains stay flat
        if not self._is_stored(unit):
            return []
        depth = len(self.dims) if self._is_full(unit) else self.depth
        place = index if unit.piece is None else unit.piece.place(self.reader, index)
        base, moving = self.reader.place(unit.target, place)
        indices = tuple(
            ScatterIndex(i.term, GatherDim(stride, i.size, i.wraps)) for i, stride in moving
        )
        code = next((i.check for i, _ in moving), None)
        kind: Literal["set", "add"] = (
            "add" if unit.piece is not None and unit.piece.kind in ("add", "sum") else "set"
        )
        number = self.reader.buffer(unit.target)
        run = None
        if unit.piece is not None and unit.piece.row is not None:
            run = Run(unit.piece.row(index), unit.piece.chunk)
        return [Store(number, base, value, depth, kind, indices, code, run)]

    def _index(self, unit: Unit) -> Index:
        """Index of the unit's stage at the kernel's axes."""
        count = len(self.dims) if self._is_full(unit) else self.depth
        position = reindex(self.symbols[:count], self.dims[:count], unit.dims)
        return tuple(position[unit.order.index(d)] for d in range(len(unit.order)))

    def _params(self, stores: Sequence[Store]) -> tuple[BufferParam, ...]:
        scattered = {s.buffer for s in stores if s.kind == "add" or s.indices}
        written = {s.buffer for s in stores}
        roles: dict[int, Role] = {
            **dict.fromkeys(written, "out"),
            **dict.fromkeys(scattered, "inout"),
        }
        return tuple(
            BufferParam(stage.dtype, roles.get(number, "in"), stage.parts is not None)
            for stage, number in self.reader.buffers.items()
        )
