"""How the demo looks: progress bars, tables, the list of kernels, and the picture of the curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from plait.demo.training import Run

__all__ = ["curves", "epochs_table", "kernels_table", "progress", "speed_table"]


@contextmanager
def progress(console: Console, name: str, steps: int) -> Iterator[Callable[[Run, int], None]]:
    """A bar that the returned callback moves by one step."""
    columns = (
        TextColumn("[bold]{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(name, total=steps, facts="")

        def advance(run: Run, epoch: int) -> None:
            facts = ""
            if run.losses:
                loss, accuracy = run.losses[-1], run.accuracies[-1]
                facts = f"epoch {epoch + 1}: loss {loss:.4f}, held-out accuracy {accuracy:.1%}"
            bars.update(task, advance=1, facts=facts)

        yield advance


def epochs_table(eager: Run, compiled: Run) -> Table:
    """Loss and accuracy of each epoch, both ways, and how far the losses are apart."""
    table = Table(title="Training loss and held-out digits by epoch")
    heads = ("epoch", "eager", "compiled", "apart by", "right, eager", "right, compiled")
    for head in heads:
        table.add_column(head, justify="right")
    for i, (a, b) in enumerate(zip(eager.losses, compiled.losses)):
        table.add_row(
            str(i + 1),
            f"{a:.5f}",
            f"{b:.5f}",
            f"{abs(a - b) / abs(a):.1e}",
            f"{eager.accuracies[i]:.2%}",
            f"{compiled.accuracies[i]:.2%}",
        )
    return table


def speed_table(eager: Run, compiled: Run) -> Table:
    """Steps a second and the first step of each way."""
    table = Table(title="Speed")
    for head in ("", "steps/s", "first step", "speed-up"):
        table.add_column(head, justify="right" if head else "left")
    for run in (eager, compiled):
        ratio = run.steps_per_second / eager.steps_per_second if eager.steps_per_second else 0.0
        first = f"{run.first_step_seconds * 1e3:.1f} ms"
        table.add_row(run.name, f"{run.steps_per_second:,.0f}", first, f"{ratio:.1f}x")
    return table


def kernels_table(kernels: list[tuple[str, str]]) -> Table:
    """Native kernels, each with what was fused into it."""
    table = Table(title="Native kernels of the training step")
    table.add_column("kernel", no_wrap=True)
    table.add_column("what is in it")
    for name, parts in kernels:
        table.add_row(name, parts)
    return table


def curves(eager: Run, compiled: Run, path: Path) -> None:
    """Write a PNG of the loss and accuracy curves of both runs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    for run, style in ((eager, "-"), (compiled, "--")):
        numbers = range(1, len(run.losses) + 1)
        loss.plot(numbers, run.losses, style, label=run.name)
        accuracy.plot(numbers, [100 * a for a in run.accuracies], style, label=run.name)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    accuracy.set(title="held-out accuracy, %", xlabel="epoch")
    for axes in (loss, accuracy):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
