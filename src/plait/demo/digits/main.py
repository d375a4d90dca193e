"""`plait demo`: train the classifier both ways, compare, show, and write the figures down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from plait.demo.digits import show
from plait.demo.digits.data import Digits, load_digits
from plait.demo.digits.training import BATCH, Run, joint_graph_io, train
from plait.demo.figures import circumstances, kernel_list, largest_difference, write_figures
from plait.demo.show import check_pictures, kernels_table, progress, speed_table

__all__ = ["DEFAULT_EPOCHS", "run_demo"]

DEFAULT_EPOCHS = 20
WANTED_ACCURACY = 0.96
ALLOWED_DIFFERENCE = 1e-4


def run_demo(
    console: Console,
    *,
    epochs: int = DEFAULT_EPOCHS,
    seed: int = 0,
    out: Path = Path("demo-out"),
    json_path: Path | None = None,
    backend: str = "llvm",
) -> bool:
    """Run the demo; whether the two runs agree and, over all epochs, the digits were learned."""
    check_pictures()
    data = load_digits()
    count = len(data.train_labels)
    console.print(
        f"[bold]{count} handwritten digits to learn from, {len(data.test_labels)} held out[/]; "
        f"{epochs} epochs of {count // BATCH} steps, batches of {BATCH}, dropout on, seed {seed}."
    )
    eager = _train(console, data, None, epochs, seed)
    compiled = _train(console, data, backend, epochs, seed)
    console.print("\n[bold]Inputs and outputs of the joint graph of the loss[/]")
    console.print(Text(joint_graph_io(data, backend)), soft_wrap=True)
    _explain(console, compiled)
    console.print(show.epochs_table(eager, compiled))
    rows = [(run.name, run.clock.rate, run.clock.first_seconds) for run in (eager, compiled)]
    console.print(speed_table(rows, "steps/s"))
    picture = out / "loss.png"
    show.curves(eager, compiled, picture)
    console.print(f"Curves: {picture}")
    figures = collect(eager, compiled, epochs, seed)
    if json_path is not None:
        write_figures(figures, json_path)
        console.print(f"Figures: {json_path}")
    return _verdict(console, figures)


def _train(console: Console, data: Digits, backend: str | None, epochs: int, seed: int) -> Run:
    steps = epochs * (len(data.train_labels) // BATCH)
    with progress(console, "compiled" if backend else "eager", steps) as advance:
        on_step = lambda run, epoch: advance(show.facts_of(run, epoch))
        return train(data, backend=backend, epochs=epochs, seed=seed, on_step=on_step)


def _explain(console: Console, run: Run) -> None:
    console.print("\n[bold]Inputs and outputs of the training step, one program[/]")
    console.print(Text(run.step.print_io()), soft_wrap=True)
    console.print(kernels_table(kernel_list(run.step)))


def collect(eager: Run, compiled: Run, epochs: int, seed: int) -> dict[str, Any]:
    """The figures of both runs, for JSON."""
    return {
        "held_out_accuracy": compiled.accuracies[-1],
        "largest_relative_loss_difference": largest_difference(eager.losses, compiled.losses),
        "first_compile_seconds": compiled.clock.first_seconds,
        "speed_up": compiled.clock.rate / eager.clock.rate,
        "epochs": epochs,
        **circumstances(seed),
        "kernels": [{"name": n, "content": c} for n, c in kernel_list(compiled.step)],
        **{run.name: _figures(run) for run in (eager, compiled)},
    }


def _figures(run: Run) -> dict[str, Any]:
    return {
        "loss": run.losses,
        "held_out_accuracy": run.accuracies,
        "steps_per_second": run.clock.rate,
        "first_step_seconds": run.clock.first_seconds,
    }


def _verdict(console: Console, figures: dict[str, Any]) -> bool:
    accuracy = figures["held_out_accuracy"]
    difference = figures["largest_relative_loss_difference"]
    is_learned = accuracy >= WANTED_ACCURACY or figures["epochs"] < DEFAULT_EPOCHS
    agrees = difference <= ALLOWED_DIFFERENCE
    colour = "green" if agrees and is_learned else "red"
    console.print(
        f"[bold {colour}]held-out accuracy {accuracy:.2%}[/]; losses differ by at most "
        f"{difference:.1e} (allowed {ALLOWED_DIFFERENCE:.0e}); the first compiled step took "
        f"{figures['first_compile_seconds']:.2f} s; compiled steps are "
        f"{figures['speed_up']:.1f} times as fast."
    )
    return bool(agrees and is_learned)
