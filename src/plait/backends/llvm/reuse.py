"""Reuse: results that are written into the memory of inputs, instead of into memory of their own.

The law: an element of an input is overwritten only after its last read. A kernel may write a result
into an input that it reads if each of its points reads only elements that the same point (or, for a
reduction along rows, the same row, which is read before it is written) overwrites; every other
kernel that reads the input runs before. Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from plait.backends.llvm.groups import Group, Unit
from plait.backends.llvm.lowering.stage import Stage

__all__ = ["Reuse", "Wish", "reuse_inputs"]


class Wish(NamedTuple):
    """A result, and inputs of its type and layout whose memory it may take; the first that can."""

    result: Stage
    inputs: tuple[Stage, ...]


class Reuse(NamedTuple):
    """What was decided: result -> the input whose memory it gets, or why it gets none."""

    taken: dict[Stage, Stage]
    refused: dict[Stage, str]


def reuse_inputs(groups: Mapping[int, Group], wishes: Sequence[Wish]) -> Reuse:
    """Grant what wishes can be granted; groups then depend on those that must read before."""
    return _Decision(groups).decide(wishes)


class _Decision:
    def __init__(self, groups: Mapping[int, Group]) -> None:
        self.groups = groups
        self.makers: dict[Stage, tuple[Group, Unit]] = {}
        self.readers: dict[Stage, list[tuple[Group, Unit]]] = {}
        for group in groups.values():
            for unit in group.units:
                self.makers[unit.target] = group, unit
                for read in unit.reads:
                    self.readers.setdefault(read, []).append((group, unit))

    def decide(self, wishes: Sequence[Wish]) -> Reuse:
        reuse = Reuse({}, {})
        used: set[Stage] = set()
        for wish in wishes:
            reason = "no input of its type and layout is left"
            for place in self._own_first(wish):
                if place in used:
                    continue
                found = self._why_not(wish.result, place)
                if found is None:
                    reuse.taken[wish.result] = place
                    used.add(place)
                    break
                reason = found
            else:
                reuse.refused[wish.result] = reason
        return reuse

    def _own_first(self, wish: Wish) -> list[Stage]:
        """The inputs of a wish, those first that the kernel of the result reads anyway: others
        would make it wait for their readers.
        """
        maker = self.makers.get(wish.result)
        reads = maker[1].reads if maker is not None else {}
        return sorted(wish.inputs, key=lambda place: place not in reads)

    def _why_not(self, result: Stage, place: Stage) -> str | None:
        """Why `result` cannot be written over `place`; None: it can, and the order is now kept."""
        if result not in self.makers:
            return f"{result.name} is one of several results of one step"
        group, unit = self.makers[result]
        if unit.piece is not None:
            return f"{result.name} is written piece by piece"
        earlier = []
        for other, reader in self.readers.get(place, ()):
            if other is group:
                if not _reads_where_written(reader, unit, place):
                    return f"{reader.stage.name} reads other elements in the same kernel"
            elif self._depends(other, group):
                return f"{reader.stage.name} reads the old value when the new one is known"
            else:
                earlier.append(other)
        for other in earlier:
            group.deps.add(other.number)
            group.ancestors |= {other.number, *other.ancestors}
        return None

    def _depends(self, group: Group, on: Group) -> bool:
        """Whether `group` must run after `on`."""
        seen: set[int] = set()
        stack = list(group.deps)
        while stack:
            number = stack.pop()
            if number == on.number:
                return True
            if number not in seen:
                seen.add(number)
                stack.extend(self.groups[number].deps)
        return False


def _reads_where_written(reader: Unit, writer: Unit, place: Stage) -> bool:
    """Whether the reader needs of `place` only what the writer overwrites at the same point."""
    if "gemm" in (reader.kind, writer.kind):
        return False
    positions = reader.reads[place]
    if reader.points is writer.points:
        return all(position is reader.flat for position in positions)
    if reader.kind == "row" and reader.space is writer.points:
        return all(position is reader.full for position in positions)
    return False
