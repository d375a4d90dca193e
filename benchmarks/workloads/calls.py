"""What a call costs when there is nothing to compute: four elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "prepare"]

UNIT = "us"
WORKS = {
    "two-op graph, 4 elements": lambda x, y: (x + y) * y,
    "small add, 4 elements": lambda x, y: x + y,
}


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A call of the work on the system, ready to be timed."""
    compiled = system.compile(WORKS[work])
    x, y = (system.tensor(np.arange(4, dtype=np.float32) + i) for i in range(2))
    return lambda: compiled(x, y)


def check(system: System, work: str) -> float:
    """Largest difference from NumPy."""
    x, y = np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32) + 1
    return float(np.abs(system.array(prepare(system, work)()) - WORKS[work](x, y)).max())
