"""What is shown and written of the measurements: a text table with ratios, and JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Record", "machine", "markdown", "table"]

SCALE = {"ms": 1e3, "us": 1e6}


@dataclass(frozen=True, slots=True)
class Record:
    """One figure."""

    work: str
    system: str
    threads: int
    metric: str  # "time" (of a call or of an event that happens once), "difference"
    value: float
    unit: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def machine() -> dict[str, Any]:
    """Facts about where the figures were taken."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(records: list[Record], systems: list[str], base: str) -> str:
    """Rows of work and threads, a column for each system; in brackets how many times faster than
    `base` it is.
    """
    lines = _cells(records, systems, base)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_line(line, widths) for line in lines)


def markdown(records: list[Record], systems: list[str], base: str) -> str:
    """The same table for a page."""
    head, *rows = ["| " + " | ".join(line) + " |" for line in _cells(records, systems, base)]
    return "\n".join([head, "|---|" + "---:|" * (len(systems) + 2), *rows])


def _cells(records: list[Record], systems: list[str], base: str) -> list[list[str]]:
    times = [r for r in records if r.metric == "time"]
    rows = list(dict.fromkeys((r.work, r.threads, r.unit) for r in times))
    values = {(r.work, r.threads, r.system): r.value for r in times}
    lines = [["work", "threads", "unit", *systems]]
    for work, threads, unit in rows:
        reference = values.get((work, threads, base))
        cells = [_cell(values.get((work, threads, s)), reference, s == base) for s in systems]
        lines.append([work, str(threads), unit, *cells])
    return lines


def _line(cells: list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:]))])


def _cell(value: float | None, reference: float | None, is_base: bool) -> str:
    if value is None:
        return "-"
    text = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return text if is_base or not reference else f"{text} ({reference / value:.2f}x)"
