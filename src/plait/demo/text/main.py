"""`plait demo --text`: train the language model both ways, compare, let it write, write it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from plait.demo.figures import (
    cache_outcomes,
    circumstances,
    kernel_list,
    largest_difference,
    write_figures,
)
from plait.demo.show import check_pictures, kernels_table, progress, speed_table
from plait.demo.text import show
from plait.demo.text.bigram import SMOOTHING, Bigram
from plait.demo.text.corpus import ALPHABET, Corpus, held_out_windows, load_corpus
from plait.demo.text.model import FULL, Settings
from plait.demo.text.training import Run, train
from plait.demo.text.writing import PROMPTS, Written, write_all

__all__ = ["ALLOWED_DIFFERENCE", "run_text_demo"]

ALLOWED_DIFFERENCE = 1e-3


class Rival(NamedTuple):
    """The bigram model's figures, in nats for each character."""

    cross_entropy: float  # over the very places that the reports measure
    entropy: float  # its own


class Outcome(NamedTuple):
    """All that was done."""

    settings: Settings
    rival: Rival
    runs: tuple[Run, Run]  # eager, compiled
    written: tuple[Written, Written]
    seed: int


def run_text_demo(
    console: Console,
    *,
    settings: Settings = FULL,
    seed: int = 0,
    out: Path = Path("demo-out"),
    json_path: Path | None = None,
    backend: str = "llvm",
    source: Path | None = None,
) -> bool:
    """Run the demo; whether the two runs agree and, in a full training, the bigram is beaten."""
    check_pictures()
    corpus = load_corpus(source)
    rival = measure_bigram(corpus, settings)
    _introduce(console, corpus, settings, rival, seed)
    runs = tuple(_train(console, corpus, settings, name, seed) for name in (backend, None))
    compiled, eager = runs
    written = tuple(
        write_all(run, settings, backend=name, seed=seed)
        for run, name in ((eager, None), (compiled, backend))
    )
    outcome = Outcome(settings, rival, (eager, compiled), (written[0], written[1]), seed)
    figures = collect(outcome)
    _show(console, outcome, figures)
    path = out / "text.png"
    show.curves(eager, compiled, rival.cross_entropy, path)
    console.print(f"Curves: {path}")
    if json_path is not None:
        write_figures(figures, json_path)
        console.print(f"Figures: {json_path}")
    return _verdict(console, figures)


def measure_bigram(corpus: Corpus, settings: Settings) -> Rival:
    """The bigram model of the training text, on the held-out places of the reports."""
    bigram = Bigram(corpus.train, len(ALPHABET))
    last, following = held_out_windows(corpus, settings.held_out, settings.length)
    return Rival(bigram.cross_entropy(last.numpy(), following.numpy()), bigram.entropy)


def _introduce(
    console: Console, corpus: Corpus, settings: Settings, rival: Rival, seed: int
) -> None:
    console.print(
        f"[bold]{len(corpus.train):,} characters of Python to learn from, "
        f"{len(corpus.held_out):,} held out[/], in {corpus.files} files; {settings.steps} steps of "
        f"{settings.batch} windows of {settings.length}, {settings.layers} layers of width "
        f"{settings.width}, seed {seed}."
    )
    console.print(
        f"To beat: a bigram model of the same text (each pair counted {SMOOTHING} more), "
        f"cross-entropy [bold]{rival.cross_entropy:.4f}[/] nats for each of the "
        f"{settings.held_out * settings.length:,} held-out characters that each report measures; "
        f"its own entropy is {rival.entropy:.4f}."
    )


def _train(
    console: Console, corpus: Corpus, settings: Settings, backend: str | None, seed: int
) -> Run:
    with progress(console, "compiled" if backend else "eager", settings.steps) as advance:
        on_step = lambda run: advance(show.facts_of(run))
        return train(corpus, settings, backend=backend, seed=seed, on_step=on_step)


def _show(console: Console, outcome: Outcome, figures: dict[str, Any]) -> None:
    (eager, compiled), settings = outcome.runs, outcome.settings
    console.print(kernels_table(show.gathered(kernel_list(compiled.step))))
    console.print(show.reports_table(eager, compiled, outcome.rival.cross_entropy))
    console.print("\n[bold]What the compiled model writes[/]")
    console.print(show.texts_panel(outcome.written[1].texts, PROMPTS))
    rows = [
        (f"{what}, {run.name}", clock.rate * tokens, clock.first_seconds)
        for what, tokens, clocks in (
            ("training", settings.tokens, [run.clock for run in outcome.runs]),
            ("writing", 1, [written.clock for written in outcome.written]),
        )
        for run, clock in zip(outcome.runs, clocks)
    ]
    for pair in (rows[:2], rows[2:]):
        console.print(speed_table(pair, "tokens/s"))
    console.print(Text(_writing_words(figures["writing"])))
    asked = figures["compiled"]["cache"]
    outcomes = ", ".join(f"{n} {name}" for name, n in asked.items()) or "not asked"
    first = figures["compiled"]["first_step_seconds"]
    console.print(f"First training step: {first:.2f} s; the cache on disk gave {outcomes}.")


def _writing_words(writing: dict[str, Any]) -> str:
    shortest, longest = writing["cache_lengths"]
    same = "the same texts" if writing["same_texts"] else "other texts"
    times = "once" if writing["entries"] == 1 else f"{writing['entries']} times"
    return (
        f"The step of writing was compiled {times} and served every length of "
        f"the key-value cache from {shortest} to {longest}; eager and compiled wrote {same}."
    )


def collect(outcome: Outcome) -> dict[str, Any]:
    """The figures, for JSON."""
    (eager, compiled), settings = outcome.runs, outcome.settings
    losses = [[loss for r in run.reports for loss in r[1:3]] for run in outcome.runs]
    last = compiled.reports[-1]
    beaten = [r for r in compiled.reports if r.held_out_loss < min(outcome.rival)]
    return {
        "bigram": outcome.rival._asdict(),
        "held_out_loss": last.held_out_loss,
        "is_full": settings == FULL,
        "beaten_at_step": beaten[0].step if beaten else None,
        "beaten_after_seconds": beaten[0].seconds if beaten else None,
        "largest_relative_loss_difference": largest_difference(*losses),
        "speed_up": compiled.clock.rate / eager.clock.rate,
        **circumstances(outcome.seed),
        "settings": {name: getattr(settings, name) for name in Settings.__slots__},
        "kernels": [{"name": n, "content": c} for n, c in kernel_list(compiled.step)],
        "writing": _writing_figures(outcome),
        "eager": _figures(eager, settings),
        "compiled": {**_figures(compiled, settings), "cache": cache_outcomes(compiled.step)},
    }


def _figures(run: Run, settings: Settings) -> dict[str, Any]:
    return {
        "reports": [report._asdict() for report in run.reports],
        "tokens_per_second": run.clock.rate * settings.tokens,
        "first_step_seconds": run.clock.first_seconds,
    }


def _writing_figures(outcome: Outcome) -> dict[str, Any]:
    eager, compiled = outcome.written
    shortest = min(map(len, PROMPTS))
    return {
        "texts": compiled.texts,
        "same_texts": eager.texts == compiled.texts,
        "entries": compiled.entries,
        "cache_lengths": [shortest, max(map(len, compiled.texts)) - 2],
        "tokens_per_second": {"eager": eager.clock.rate, "compiled": compiled.clock.rate},
        "first_step_seconds": compiled.clock.first_seconds,
    }


def _verdict(console: Console, figures: dict[str, Any]) -> bool:
    difference, step = figures["largest_relative_loss_difference"], figures["beaten_at_step"]
    agrees = difference <= ALLOWED_DIFFERENCE
    beats = figures["held_out_loss"] < min(figures["bigram"].values())
    is_one = figures["writing"]["entries"] == 1
    colour = "green" if agrees and is_one and (beats or not figures["is_full"]) else "red"
    if beats:
        when = f" (from step {step}, {figures['beaten_after_seconds']:.1f} s, on)"
        result = f"beats the bigram model{when}"
    else:
        short = "" if figures["is_full"] else ", which so short a training is not asked to do"
        result = f"does not beat the bigram model{short}"
    console.print(
        f"[bold {colour}]held-out loss {figures['held_out_loss']:.4f}: {result}[/]; eager and "
        f"compiled losses differ by at most {difference:.1e} (allowed {ALLOWED_DIFFERENCE:.0e}); "
        f"compiled training is {figures['speed_up']:.1f} times as fast."
    )
    return bool(colour == "green")
