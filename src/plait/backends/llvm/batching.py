"""Batches: independent kernels next to each other, which run as one native step.

A batch is a run of groups none of which depends on another of it, so that its kernels may run in
any order and at once: one loop over a table of kernels, shared out among threads by the work of all
of them together. Small kernels that nothing large waits for, such as the updates of an optimiser,
are moved to the end, where they meet.

The laws: every group stays after all it depends on; only kernels of known sizes are batched, and
none whose elements must be written in order. Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.backends.llvm.groups import Group
from plait.symbolic.expr import as_int

__all__ = ["LEAST", "arrange", "runs"]

LEAST = 4
"""Kernels that make a batch worth a table."""
SMALL = 1 << 16
"""Elements of a kernel that may wait for others: what it reads stays in memory meanwhile."""


def arrange(groups: Sequence[Group]) -> list[Group]:
    """The groups with small ones that nothing large waits for at the end; else in their order.

    `groups` must come after what they depend on, and so does the result.
    """
    waiting: dict[int, list[Group]] = {group.number: [] for group in groups}
    for group in groups:
        for dep in group.deps:
            waiting[dep].append(group)
    late: set[int] = set()
    for group in reversed(groups):
        if _is_small(group) and all(user.number in late for user in waiting[group.number]):
            late.add(group.number)
    by_level = sorted(_levels([g for g in groups if g.number in late]), key=lambda item: item[0])
    return [*(g for g in groups if g.number not in late), *(g for _, g in by_level)]


def _levels(groups: Sequence[Group]) -> list[tuple[int, Group]]:
    """Each group with the length of the longest chain of these groups before it."""
    level: dict[int, int] = {}
    for group in groups:
        level[group.number] = max((level[d] + 1 for d in group.deps if d in level), default=0)
    return [(level[group.number], group) for group in groups]


def runs(groups: Sequence[Group], can_join: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """(first, past the last) position of each batch among groups in the order in which they run.

    `can_join` says which groups are kernels whose elements may be written in any order.
    """
    found: list[tuple[int, int]] = []
    start = 0
    inside: set[int] = set()
    for at, (group, joins) in enumerate(zip(groups, can_join)):
        if not joins or group.deps & inside:
            _close(found, start, at)
            start, inside = (at if joins else at + 1), set()
        if joins:
            inside.add(group.number)
    _close(found, start, len(groups))
    return tuple(found)


def _close(found: list[tuple[int, int]], start: int, stop: int) -> None:
    if stop - start >= LEAST:
        found.append((start, stop))


def _is_small(group: Group) -> bool:
    sizes = [as_int(unit.space) for unit in group.units]
    kinds = {unit.kind for unit in group.units}
    return kinds.isdisjoint(("gemm", "scatter", "attention")) and all(
        size is not None and size <= SMALL for size in sizes
    )
