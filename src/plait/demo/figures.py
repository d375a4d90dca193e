"""The figures of a demo: what two runs differ by, what was compiled, where it ran; as JSON."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plait.base.config import config
from plait.explain import explain

__all__ = [
    "cache_outcomes",
    "circumstances",
    "kernel_list",
    "largest_difference",
    "write_figures",
]


def largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest relative difference of two rows of losses; infinite where one is not a number.

    >>> largest_difference([1.0, 2.0], [1.0, 2.5])
    0.25
    """
    pairs = zip(first, second, strict=True)
    differences = [abs(a - b) / abs(a) for a, b in pairs]
    return max((d if d == d else float("inf") for d in differences), default=0.0)


def kernel_list(step: Any) -> list[tuple[str, str]]:
    """Name of each native kernel of a compiled step, and the operators fused into it."""
    return [(kernel.name, _counted(kernel.ops)) for kernel in step.kernels()]


def _counted(names: tuple[str, ...]) -> str:
    counts = Counter(names)
    return ", ".join(name if n == 1 else f"{n} {name}" for name, n in counts.items())


def cache_outcomes(step: Any) -> dict[str, int]:
    """How often the cache on disk gave each outcome while a step was compiled."""
    counts: Counter[str] = Counter()
    for entry in explain(step)().entries:
        counts.update(entry.cache)
    return dict(counts)


def circumstances(seed: int) -> dict[str, Any]:
    """What the figures depend on besides the sources."""
    import plait

    return {
        "seed": seed,
        "threads": config.num_threads,
        "versions": {"plait": plait.__version__, "python": platform.python_version()},
    }


def write_figures(figures: dict[str, Any], path: Path) -> None:
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
