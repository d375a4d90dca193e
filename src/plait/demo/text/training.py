"""Training the language model, one function for both ways of running it, with reports between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from plait.autograd.grad_mode import no_grad
from plait.compile import compile as compile_function
from plait.demo.text.corpus import ALPHABET, Corpus, batch, held_out_windows
from plait.demo.text.model import (
    CharacterModel,
    Params,
    Settings,
    make_loss,
    make_optimizer,
    make_step,
)
from plait.demo.timing import StepClock
from plait.ops.random import manual_seed
from plait.tensor.tensor import Tensor

__all__ = ["Report", "Run", "train"]


class Report(NamedTuple):
    """Where a run stood after some steps; losses in nats for each character."""

    step: int
    train_loss: float  # mean since the last report
    held_out_loss: float
    seconds: float  # since the run began, compiling and earlier reports included


@dataclass
class Run:
    """What one way of running gave."""

    name: str
    model: CharacterModel
    params: Params
    step: Any  # the function that was called
    reports: list[Report] = field(default_factory=list)
    clock: StepClock = field(default_factory=StepClock)


def train(
    corpus: Corpus,
    settings: Settings,
    *,
    backend: str | None,
    seed: int,
    on_step: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Train from the seed's first parameters, eagerly or, with a backend, compiled.

    Batches are the same either way, and so are the held-out windows of the reports.
    """
    start = time.perf_counter()
    manual_seed(seed)
    model = CharacterModel(len(ALPHABET), settings)
    optimizer = make_optimizer(settings)
    step: Any = make_step(model, optimizer)
    measure: Any = _make_measure(model)
    if backend is not None:
        step = compile_function(
            step, backend=backend, fullgraph=True, donate=("params", "state"), name="training step"
        )
        measure = compile_function(measure, backend=backend, fullgraph=True, name="held-out loss")
    # Copies, since a step may take the memory of what it is given.
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = Run("compiled" if backend else "eager", model, params, step)
    state = optimizer.init(params)
    windows = held_out_windows(corpus, settings.held_out, settings.length)
    losses: list[float] = []
    for number in range(settings.steps):
        given = batch(corpus, settings.batch, settings.length, seed, number)
        with run.clock.step():
            loss, run.params, state = step(run.params, state, *given)
            losses.append(float(loss))
        if (number + 1) % settings.report_every == 0 or number + 1 == settings.steps:
            held_out = float(measure(run.params, *windows))
            seconds = time.perf_counter() - start
            run.reports.append(Report(number + 1, sum(losses) / len(losses), held_out, seconds))
            losses.clear()
        on_step(run)
    return run


def _make_measure(model: CharacterModel) -> Callable[[Params, Tensor, Tensor], Tensor]:
    loss_of = make_loss(model)

    def measure(params: Params, characters: Tensor, following: Tensor) -> Tensor:
        with no_grad():
            return loss_of(params, characters, following)

    return measure
