"""How the demos look: progress bars, the table of speeds, the list of kernels, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from plait.base.errors import MissingKernel

__all__ = ["check_pictures", "kernels_table", "picture", "progress", "right_table", "speed_table"]


@contextmanager
def progress(console: Console, name: str, steps: int) -> Iterator[Callable[[str], None]]:
    """A bar that the returned callback moves by one step; what it is told stands beside the bar."""
    columns = (
        TextColumn("[bold]{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(name, total=steps, facts="")
        yield lambda facts: bars.update(task, advance=1, facts=facts)


def right_table(title: str, heads: Sequence[str]) -> Table:
    """An empty table of numbers."""
    table = Table(title=title)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def speed_table(rows: Sequence[tuple[str, float, float]], unit: str) -> Table:
    """Rate and first step of each way (name, rate, seconds of the first step)."""
    table = Table(title="Speed")
    for head in ("", unit, "first step", "speed-up"):
        table.add_column(head, justify="right" if head else "left")
    slowest = rows[0][1]
    for name, rate, first in rows:
        ratio = rate / slowest if slowest else 0.0
        table.add_row(name, f"{rate:,.0f}", f"{first * 1e3:,.1f} ms", f"{ratio:.1f}x")
    return table


def kernels_table(kernels: Sequence[tuple[str, str]]) -> Table:
    """Native kernels, each with what was fused into it."""
    table = Table(title="Native kernels of the training step")
    table.add_column("kernel", max_width=36, overflow="fold")
    table.add_column("what is in it")
    for name, parts in kernels:
        table.add_row(name, parts)
    return table


def check_pictures() -> None:
    """Raise MissingKernel, before anything is trained, where pictures cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingKernel(
            "demo: the pictures are drawn by matplotlib, which is not installed. "
            "Install plait[demo], or say make demo."
        ) from error


@contextmanager
def picture(path: Path) -> Iterator[Any]:
    """A pair of axes side by side; drawn to a PNG when the with-statement is left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    yield axes
    for each in axes:
        each.legend()
        each.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
