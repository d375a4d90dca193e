"""How the language model looks: the table of reports, the written texts, the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from plait.demo.show import picture, right_table
from plait.demo.text.training import Run

__all__ = ["curves", "facts_of", "gathered", "reports_table", "texts_panel"]


def facts_of(run: Run) -> str:
    """What stands beside the progress bar."""
    if not run.reports:
        return ""
    report = run.reports[-1]
    return f"step {report.step}: loss {report.train_loss:.3f}, held out {report.held_out_loss:.3f}"


def reports_table(eager: Run, compiled: Run, bigram: float) -> Table:
    """Both losses of each report, both ways; how far they are apart; the distance to the bigram."""
    heads = ("step", "loss, eager", "compiled", "held out", "compiled", "apart by", "- bigram")
    table = right_table("Nats for each character", heads)
    for a, b in zip(eager.reports, compiled.reports):
        losses = (a.train_loss, b.train_loss, a.held_out_loss, b.held_out_loss)
        apart = max(abs(x - y) / x for x, y in (losses[:2], losses[2:]))
        ahead = b.held_out_loss - bigram
        colour = "green" if ahead < 0 else "yellow"
        texts = [f"{loss:.4f}" for loss in losses]
        table.add_row(str(a.step), *texts, f"{apart:.0e}", f"[{colour}]{ahead:+.3f}[/]")
    return table


def texts_panel(texts: Sequence[str], prompts: Sequence[str]) -> Group:
    """Texts, their prompts in bold."""
    panels = []
    for text, prompt in zip(texts, prompts, strict=True):
        shown = Text(prompt, style="bold")
        shown.append(text[len(prompt) :], style="not bold")
        panels.append(Panel(shown))
    return Group(*panels)


def gathered(kernels: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Kernels that do the same for other layers in one line, with their number."""
    counts = Counter(content for _, content in kernels)
    first = {content: name for name, content in reversed(kernels)}
    return [
        (first[content] + (f" ({count} alike)" if count > 1 else ""), content)
        for content, count in counts.items()
    ]


def curves(eager: Run, compiled: Run, bigram: float, path: Path) -> None:
    """Write a PNG: held-out loss by step, and by seconds of training, with the bigram's line."""
    with picture(path) as (by_step, by_time):
        from matplotlib.ticker import LogLocator

        for run, style in ((eager, "-"), (compiled, "--")):
            losses = [report.held_out_loss for report in run.reports]
            by_step.plot([report.step for report in run.reports], losses, style, label=run.name)
            seconds = [report.seconds for report in run.reports]
            by_time.plot(seconds, losses, style, marker=".", label=run.name)
        for axes in (by_step, by_time):
            axes.axhline(bigram, color="grey", linestyle=":", label="bigram model")
        by_step.set(title="held-out loss, nats for each character", xlabel="step")
        by_time.set(title="the same by time, compiling included", xlabel="seconds", xscale="log")
        by_time.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        by_time.xaxis.set_major_formatter("{x:g}")
        by_time.xaxis.set_minor_formatter("")
