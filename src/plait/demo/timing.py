"""How long steps take, the first apart: it compiles. Must not know what a step does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["StepClock"]


@dataclass
class StepClock:
    """Seconds of steps.

    >>> clock = StepClock()
    >>> for _ in range(3):
    ...     with clock.step():
    ...         pass
    >>> clock.steps, clock.first_seconds > 0
    (2, True)
    """

    first_seconds: float = 0.0
    seconds: float = 0.0  # of all steps but the first
    steps: int = 0  # all but the first

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count what is inside the with-statement as one step."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        if self.first_seconds:
            self.seconds += spent
            self.steps += 1
        else:
            self.first_seconds = spent

    @property
    def rate(self) -> float:
        """Steps a second, after the first; 0 where there was no other."""
        return self.steps / self.seconds if self.seconds else 0.0
