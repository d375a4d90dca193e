"""How the digits look: the table of epochs and the picture of the curves."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from plait.demo.digits.training import Run
from plait.demo.show import picture, right_table

__all__ = ["curves", "epochs_table", "facts_of"]


def facts_of(run: Run, epoch: int) -> str:
    """What stands beside the progress bar."""
    if not run.losses:
        return ""
    loss, accuracy = run.losses[-1], run.accuracies[-1]
    return f"epoch {epoch + 1}: loss {loss:.4f}, held-out accuracy {accuracy:.1%}"


def epochs_table(eager: Run, compiled: Run) -> Table:
    """Loss and accuracy of each epoch, both ways, and how far the losses are apart."""
    heads = ("epoch", "eager", "compiled", "apart by", "right, eager", "right, compiled")
    table = right_table("Training loss and held-out digits by epoch", heads)
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


def curves(eager: Run, compiled: Run, path: Path) -> None:
    """Write a PNG of the loss and accuracy curves of both runs."""
    with picture(path) as (loss, accuracy):
        for run, style in ((eager, "-"), (compiled, "--")):
            numbers = range(1, len(run.losses) + 1)
            loss.plot(numbers, run.losses, style, label=run.name)
            accuracy.plot(numbers, [100 * a for a in run.accuracies], style, label=run.name)
        loss.set(title="training loss", xlabel="epoch", yscale="log")
        accuracy.set(title="held-out accuracy, %", xlabel="epoch")
