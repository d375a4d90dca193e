"""Kernels of one structure and different lengths as one kernel, so that it is compiled once.

`lengthless` makes the length of a flat elementwise kernel a size that is passed at run time. What
the kernel computes for a length is unchanged. Must not know graphs or LLVM.
"""

from __future__ import annotations

from dataclasses import replace

from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.loop.terms import Axis, walk
from plait.backends.llvm.loop.transform import canonical
from plait.symbolic.expr import Expr, as_int, symbol

__all__ = ["lengthless"]


def lengthless(kernel: Kernel) -> tuple[Kernel, Expr] | None:
    """(the kernel over any length, this kernel's length); None where the length is more than that.

    Only kernels without sizes, with one axis, no reduction and no computed places: nothing else in
    those can depend on how long they are.
    """
    if len(kernel.axes) != 1 or kernel.sizes or kernel.is_serial:
        return None
    axis = kernel.axes[0]
    if as_int(axis.extent) is None or any(term.op == "reduce" for term in walk(*kernel.roots())):
        return None
    if any(store.depth != 1 for store in kernel.stores):
        return None
    longer = replace(kernel, axes=(Axis(axis.name, symbol("length", 0)),))
    return canonical(longer)[0], axis.extent
