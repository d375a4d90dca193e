"""Timing of one callable: samples of enough calls each, for a given while."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["seconds_per_call"]

SAMPLE_SECONDS = 1e-3  # a sample is many calls where one is shorter than this


def seconds_per_call(function: Callable[[], object], budget: float) -> float:
    """Median over samples of the seconds that one call takes, measured for `budget` seconds."""
    calls = _calls_per_sample(function)
    repeat = range(calls)
    samples = []
    clock = time.perf_counter
    end = clock() + budget
    while clock() < end or len(samples) < 5:
        start = clock()
        for _ in repeat:
            function()
        samples.append((clock() - start) / calls)
    return statistics.median(samples)


def _calls_per_sample(function: Callable[[], object]) -> int:
    for _ in range(3):
        function()
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        if time.perf_counter() - start >= SAMPLE_SECONDS:
            return calls
        calls *= 2
