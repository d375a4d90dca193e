"""`MemoryTracker`: live and peak bytes of what operators allocate.

Knows memory as NumPy arrays: the array at the bottom of a chain of views owns the bytes, and their
life ends with it. What a kernel allocates and frees within one call is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np

from plait.dispatch.operator import Overload
from plait.ir.graph import Frame
from plait.modes.watching import WatchingMode, at, phase, place, tensors_of

__all__ = ["MemoryTracker"]


def _owner(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array that owns the memory of ``array``."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class MemoryTracker(WatchingMode):
    """Follows the memory of the results of operators while it is entered, and after that its end.

    ``live`` and ``peak`` are bytes; ``by_operator`` has the bytes that each operator allocated,
    ``live_by_operator`` those that are still alive. Memory that was there before counts nothing.

    >>> import plait
    >>> with MemoryTracker() as memory:
    ...     x = plait.ones(256)
    ...     y = x * 2
    ...     del x
    >>> memory.live, memory.peak, dict(memory.by_operator)
    (1024, 2048, {'aten::ones': 1024, 'aten::mul.Scalar': 1024})
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.peak_at: tuple[str, str, Frame | None] | None = None
        self.by_operator: Counter[str] = Counter()
        self.live_by_operator: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._known: dict[int, weakref.ref[Any]] = {}

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        for tensor in tensors_of((*args, *kwargs.values())):
            if tensor._array is not None:
                self._follow(_owner(tensor._array), None)
        out = op(*args, **kwargs)
        self.calls[op.qualname] += 1
        for tensor in tensors_of(out):
            if tensor._array is not None:
                self._follow(_owner(tensor._array), op.qualname)
        return out

    def _follow(self, owner: np.ndarray[Any, Any], operator: str | None) -> None:
        """Note memory that is new, and what made it; None: it was there before."""
        key = id(owner)
        if key in self._known:
            return
        nbytes = owner.nbytes if operator is not None else 0
        known, tracker = self._known, weakref.ref(self)

        def freed(reference: Any) -> None:
            known.pop(key, None)
            alive = tracker()
            if alive is not None and operator is not None:
                alive.live -= nbytes
                alive.live_by_operator[operator] -= nbytes

        known[key] = weakref.ref(owner, freed)
        if operator is None:
            return
        self.live += nbytes
        self.by_operator[operator] += nbytes
        self.live_by_operator[operator] += nbytes
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, (operator, phase(), place())

    def __str__(self) -> str:
        lines = [f"{self.live} bytes live, {self.peak} at the peak"]
        if self.peak_at is not None:
            operator, when, frame = self.peak_at
            lines.append(f"  the peak was in {operator} ({when}){at(frame)}")
        for name, count in self.by_operator.most_common():
            lines.append(f"  {count:>14} allocated, {self.live_by_operator[name]:>14} live: {name}")
        return "\n".join(lines)
