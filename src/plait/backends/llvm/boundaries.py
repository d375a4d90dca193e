"""Boundaries: for each kernel, which others it could have been part of, and why it is not.

Only for people, and only on demand: the reasons are asked of `fitting` again, about the groups as
they ended. Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from plait.backends.llvm.fitting import why_apart
from plait.backends.llvm.groups import Group
from plait.backends.llvm.lowering.stage import Stage
from plait.symbolic.expr import as_int

__all__ = ["Boundary", "boundaries"]

NEAR = 4  # earlier readers of the same tensor that are worth a line


class Boundary(NamedTuple):
    """Groups number `early` and `late` share values and are two kernels, for `reason`."""

    early: int
    late: int
    reason: str


def boundaries(groups: Sequence[Group]) -> list[Boundary]:
    """A boundary for each pair where one reads what the other makes, or both read one tensor."""
    makers: dict[Stage, int] = {}
    readers: dict[Stage, list[int]] = {}
    found: list[Boundary] = []
    for late, group in enumerate(groups):
        reads = dict.fromkeys(read for unit in group.units for read in unit.reads)
        neighbours: dict[int, Stage] = {}
        for read in reads:
            earlier = [makers[read]] if read in makers else []
            if as_int(read.numel) != 1:
                earlier += readers.get(read, [])[-NEAR:]
            for early in earlier:
                neighbours.setdefault(early, read)
        for early in sorted(neighbours):
            reason = _reason(groups[early], group, neighbours[early])
            found.append(Boundary(early, late, reason))
        for read in reads:
            readers.setdefault(read, []).append(late)
        makers.update(dict.fromkeys((unit.target for unit in group.units), late))
    return found


def _reason(early: Group, late: Group, shared: Stage) -> str:
    if late.units[0].kind == "attention":
        return f"attention reads {shared.name}"
    if late.units[0].kind == "gemm":
        return f"a matrix product reads {shared.name}"
    if early.units[0].kind == "gemm" and shared is early.units[0].target:
        return f"{shared.name} is made by a matrix product"
    return why_apart(early, late) or "what one makes reaches the other through a third kernel"
