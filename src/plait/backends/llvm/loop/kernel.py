"""Kernels: stores of terms over a nest of parallel axes.

A kernel reads and writes numbered buffers. Every point of its axes is independent of the others,
except where a store adds (then points run in order). Must not know graphs, NumPy or LLVM.

    Kernel softmax(b0: in f32, b1: out f32), axes i0 < 2048, i1 < 1024:
        b1[i0*1024 + i1] = exp(b0[...] - max_r(b0[i0*1024 + r])) / sum_r(...)

A term that does not mention an inner axis is a row value: evaluated once per point of the outer
axes.
Reductions over equal axes (same name) of one kernel may share a loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from plait.backends.llvm.loop.terms import Axis, GatherDim, Term, walk
from plait.symbolic.expr import Expr

__all__ = ["BufferParam", "Kernel", "Run", "ScatterIndex", "Store"]


class BufferParam(NamedTuple):
    """One buffer argument. `temp` is scratch of the kernel's caller: written, then read later."""

    dtype: str
    role: Literal["in", "out", "inout"]
    pairs: bool = False
    """Elements come in pairs that begin at even offsets: the parts of complex numbers."""


class ScatterIndex(NamedTuple):
    """One computed index of a store: adds term * dim.stride to the offset; below dim.size."""

    term: Term
    dim: GatherDim


class Run(NamedTuple):
    """Rows numbered `row` meet within runs of `length` of them; the first of a run sets the place.

    Rows are the points of all axes but the last, numbered through.
    """

    row: Expr
    length: int


class Store(NamedTuple):
    """buffer[offset + sum(index * stride)] = value, or += value when kind is "add"."""

    buffer: int
    offset: Expr
    value: Term
    depth: int
    """How many leading axes index it: it runs once per point of those."""
    kind: Literal["set", "add"] = "set"
    indices: tuple[ScatterIndex, ...] = ()
    check: int | None = None
    """Code reported when an index is out of range."""
    run: Run | None = None
    """Of an add: which rows meet in one place."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Stores over axes (outer to inner). Structure is everything: equal kernels are shared."""

    name: str
    buffers: tuple[BufferParam, ...]
    sizes: tuple[str, ...]
    """Names of the size symbols, in the order in which their values are passed (i64)."""
    axes: tuple[Axis, ...]
    stores: tuple[Store, ...]

    @property
    def is_serial(self) -> bool:
        """Whether points must run in order: some store writes to computed places (may meet)."""
        return any(
            (store.kind == "add" and store.run is None) or store.indices for store in self.stores
        )

    @property
    def row_depth(self) -> int:
        """How many outer axes make a row: over these the kernel is split among threads.

        The greatest depth that every store and every reduction respects: with row values or row
        stores it is their depth, otherwise all axes.
        """
        names = [axis.name for axis in self.axes]
        depth = min((store.depth for store in self.stores), default=len(names))
        for term in walk(*self.roots()):
            if term.op == "reduce":
                used = [names.index(name) + 1 for name in term.symbols if name in names]
                depth = min(depth, max(used, default=0)) if used else depth
        return depth

    def roots(self) -> tuple[Term, ...]:
        """Values and computed indices of all stores."""
        return tuple(
            term
            for store in self.stores
            for term in (store.value, *(i.term for i in store.indices))
        )
