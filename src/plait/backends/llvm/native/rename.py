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
    terms = list(walk(*kernel.roots()))
    groups: dict[Expr, list[Axis]] = {}
    if kernel.axes and kernel.row_depth < len(kernel.axes):
        groups[kernel.axes[-1].extent] = [kernel.axes[-1]]
    found: dict[str, Axis] = {}
    for term in terms:
        if term.op == "reduce" and term.attr[1].name not in found:
            axis: Axis = term.attr[1]
            group = groups.setdefault(axis.extent, [])
            if all(not _mix(terms, axis.name, other.name) for other in group):
                group.append(axis)
                found[axis.name] = group[0]
    return {old: axis for old, axis in found.items() if old != axis.name}


def _mix(terms: list[Term], one: str, other: str) -> bool:
    """Whether some value depends on both axes, or reduces over one what depends on the other."""
    for term in terms:
        names = term.symbols
        if term.op == "reduce" and term.attr[1].name in (one, other):
            names = names | {term.attr[1].name}
        if one in names and other in names:
            return True
    return False
