"""Giving axes of equal extent one name, so that values of several passes over a row are one
term.
"""

from __future__ import annotations

from plait.backends.llvm.loop.kernel import Kernel, ScatterIndex
from plait.backends.llvm.loop.terms import Axis, Term, walk
from plait.backends.llvm.loop.transform import Rewriter
from plait.symbolic.expr import Expr

__all__ = ["share_axes"]


def share_axes(kernel: Kernel) -> Kernel:
    """Rename reduction axes to the last parallel axis, or to each other, where extents are equal.

    Only where no value mentions both names at once.
    """
    targets = _renaming(kernel)
    if not targets:
        return kernel
    names: dict[str, Expr] = {old: axis.symbol for old, axis in targets.items()}
    rewriter = Rewriter(names, dict(targets))
    stores = tuple(
        store._replace(
            value=rewriter.term(store.value),
            indices=tuple(ScatterIndex(rewriter.term(i.term), i.dim) for i in store.indices),
        )
        for store in kernel.stores
    )
    return Kernel(kernel.name, kernel.buffers, kernel.sizes, kernel.axes, stores)


def _renaming(kernel: Kernel) -> dict[str, Axis]:
    """Name of a reduction axis -> the axis that takes its place."""
    by_extent: dict[Expr, Axis] = {}
    if kernel.axes and kernel.row_depth < len(kernel.axes):
        by_extent[kernel.axes[-1].extent] = kernel.axes[-1]
    found: dict[str, Axis] = {}
    blocked: set[str] = set()
    for term in walk(*kernel.roots()):
        if term.op == "reduce":
            axis: Axis = term.attr[1]
            found[axis.name] = target = by_extent.setdefault(axis.extent, axis)
            if target.name != axis.name and _mixes(term, axis.name, target.name):
                blocked.add(axis.name)
    return {old: axis for old, axis in found.items() if old != axis.name and old not in blocked}


def _mixes(reduction: Term, old: str, new: str) -> bool:
    """Whether something under a reduction over `old` depends on both names."""
    for part in walk(reduction.args[0]):
        both = {old, new} <= part.symbols
        binds = part.op == "reduce" and old in part.symbols and part.attr[1].name == new
        if both or binds:
            return True
    return new in reduction.symbols
