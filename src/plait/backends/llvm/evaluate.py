"""From stages to terms: the reader that loads what is stored and computes the rest in place.

One evaluator serves one kernel (or one probe of what a computation would read). Must not decide
what is stored: that is told by `is_stored`.
"""

from __future__ import annotations

from collections.abc import Callable

from plait.backends.llvm.loop import builder as b
from plait.backends.llvm.loop.builder import DynamicIndex
from plait.backends.llvm.loop.indexing import ZERO
from plait.backends.llvm.loop.terms import Axis, Term
from plait.backends.llvm.lowering.stage import Index, NotIndexable, Stage
from plait.backends.llvm.plan import Check
from plait.symbolic.expr import Expr

__all__ = ["Evaluator"]

OnLoad = Callable[[Stage, Index], None]


class Evaluator:
    """Terms of stages at indices; one memo, so equal elements are one term."""

    def __init__(self, is_stored: Callable[[Stage], bool], on_load: OnLoad | None = None) -> None:
        self.is_stored = is_stored
        self.on_load = on_load
        self.buffers: dict[Stage, int] = {}
        self.checks: list[Check] = []
        self.mask: Term | None = None
        self.memo: dict[tuple[Stage, Index, Term | None], Term] = {}
        self.axes: dict[tuple[Expr, ...], tuple[Axis, ...]] = {}

    def buffer(self, stage: Stage) -> int:
        """The kernel's number for the buffer of `stage`."""
        return self.buffers.setdefault(stage, len(self.buffers))

    def check(self, failure: Check) -> int:
        """The kernel's code for a run-time check."""
        if failure not in self.checks:
            self.checks.append(failure)
        return self.checks.index(failure)

    def __call__(self, stage: Stage, index: Index, mask: Term | None = None) -> Term:
        """The element of `stage` at `index`, loaded if it is stored."""
        if mask is None:
            return self._element(stage, index)
        outer, self.mask = self.mask, b.logical_and(self.mask, mask)
        try:
            return self._element(stage, index)
        finally:
            self.mask = outer

    def _element(self, stage: Stage, index: Index) -> Term:
        if self.is_stored(stage):
            return self.load(stage, index)
        return self.compute(stage, index)

    def load(self, stage: Stage, index: Index) -> Term:
        """The element from memory."""
        if self.on_load is not None:
            self.on_load(stage, index)
        number = self.buffer(stage)
        base, moving = self.place(stage, index)
        if not moving:
            return b.load(number, base, stage.dtype, self.mask)
        return b.gather(number, base, moving, stage.dtype, self.mask)

    def place(self, stage: Stage, index: Index) -> tuple[Expr, list[tuple[DynamicIndex, Expr]]]:
        """(fixed offset, computed indices with strides) of an element in the buffer of `stage`."""
        base, moving = ZERO, []
        for position, stride in zip(index, stage.strides, strict=True):
            if isinstance(position, DynamicIndex):
                moving.append((position, stride))
            else:
                base = base + position * stride
        return base, moving

    def compute(self, stage: Stage, index: Index) -> Term:
        """The element worked out here, whether `stage` is stored or not."""
        key = (stage, index, self.mask)  # not their ids: some are made for one read
        known = self.memo.get(key)
        if known is None:
            known = self.memo[key] = self._compute(stage, index)
        return known

    def _compute(self, stage: Stage, index: Index) -> Term:
        if stage.kind == "view":
            assert stage.remap is not None
            return self(stage.inputs[0], stage.remap(index))
        if stage.kind == "map":
            assert stage.body is not None
            return stage.body(self, index)
        if stage.kind == "reduce":
            return self._reduce(stage, index)
        raise NotIndexable(stage)

    def _reduce(self, stage: Stage, index: Index) -> Term:
        if any(isinstance(position, DynamicIndex) for position in index):
            raise NotIndexable(stage)
        source = stage.inputs[0]
        axes = self.reduce_axes(stage, index)
        inner = {d: axis.symbol for d, axis in zip(stage.dims, axes)}
        outer = iter(index)
        full = tuple(inner[d] if d in inner else next(outer) for d in range(len(source.shape)))
        term = self(source, full)
        for _, axis in sorted(zip(stage.dims, axes), key=lambda item: -_rank(source, item[0])):
            term = b.reduce(stage.reduction, axis, term)
        return term

    def reduce_axes(self, stage: Stage, index: Index) -> tuple[Axis, ...]:
        """Axes of a reduction; reductions over equal extents share them."""
        source = stage.inputs[0]
        extents = tuple(source.shape[d] for d in stage.dims)
        if stage.ragged is not None:
            ragged_dim, extent_at = stage.ragged
            short = extent_at(index)
            extents = tuple(short if d == ragged_dim else source.shape[d] for d in stage.dims)
        if extents not in self.axes:
            start = sum(len(axes) for axes in self.axes.values())
            self.axes[extents] = tuple(Axis(f"r{start + k}", e) for k, e in enumerate(extents))
        return self.axes[extents]


def _rank(source: Stage, dim: int) -> int:
    """Position of a dimension in memory order, slowest first: the innermost loop is the fastest."""
    return source.order.index(dim)
