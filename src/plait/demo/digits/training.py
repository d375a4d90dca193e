"""The model and its training step, one function for both ways of running it.

Owns what is computed; must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.autograd.grad_mode import no_grad
from plait.compile import compile as compile_function
from plait.demo.digits.data import Digits, batches
from plait.demo.timing import StepClock
from plait.nn import GELU, Dropout, LayerNorm, Linear, Module, Sequential, functional_call
from plait.nn.functional import cross_entropy
from plait.ops.random import manual_seed
from plait.optim import AdamW
from plait.tensor.tensor import Tensor, from_numpy
from plait.transforms.func import value_and_grad

__all__ = ["Run", "build_model", "joint_graph_io", "make_predict", "make_step", "train"]

BATCH = 64
WIDTH = 128

Params = dict[str, Tensor]
Step = Callable[..., tuple[Tensor, Params, dict[str, Any]]]


def build_model() -> Module:
    """64 pixels -> 128 features, normalised, GELU, dropout -> 10 digits."""
    return Sequential(Linear(64, WIDTH), LayerNorm(WIDTH), GELU(), Dropout(0.1), Linear(WIDTH, 10))


def make_step(model: Module, optimizer: AdamW) -> Step:
    """A training step as a pure function of parameters, optimiser state and a batch."""

    def loss_of(params: Params, images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, params, (images,)), labels)

    def step(
        params: Params, state: dict[str, Any], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Params, dict[str, Any]]:
        loss, grads = value_and_grad(loss_of)(params, images, labels)
        params, state = optimizer.update(params, grads, state)
        return loss, params, state

    return step


def joint_graph_io(data: Digits, backend: str) -> str:
    """What the joint graph of the model's loss takes and gives: parameters, tangents, gradients.

    The graph that compiling the loss alone makes; the training step contains the same work as one
    program, in which parameters are arguments and gradients stay inside.
    """
    model = build_model()

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(images), labels)

    compiled = compile_function(loss, backend=backend, fullgraph=True)
    images, labels = next(batches(data, BATCH, 0, 0))
    compiled(images, labels).backward()
    table: str = compiled.print_io()
    return table


def make_predict(model: Module) -> Callable[[Params, Tensor], Tensor]:
    """The digit that the model sees in each image."""

    def predict(params: Params, images: Tensor) -> Tensor:
        digits: Tensor = functional_call(model, params, (images,)).argmax(-1)
        return digits

    return predict


@dataclass
class Run:
    """What one way of running gave."""

    name: str
    losses: list[float] = field(default_factory=list)  # mean over each epoch
    accuracies: list[float] = field(default_factory=list)  # held out, after each epoch
    clock: StepClock = field(default_factory=StepClock)
    step: Any = None  # the function that was called


def train(
    data: Digits,
    *,
    backend: str | None,
    epochs: int,
    seed: int,
    on_step: Callable[[Run, int], None] = lambda run, epoch: None,
) -> Run:
    """Train from the seed's first parameters, eagerly or, with a backend, compiled.

    Batches and dropout masks are the same either way.
    """
    manual_seed(seed)
    model = build_model()
    optimizer = AdamW(lr=4e-3, weight_decay=1e-2)
    step, predict = make_step(model, optimizer), make_predict(model)
    run = Run("compiled" if backend else "eager")
    if backend is not None:
        step = compile_function(step, backend=backend, fullgraph=True)
        predict = compile_function(predict, backend=backend, fullgraph=True)
    run.step = step
    params = model.state_dict()
    state = optimizer.init(params)
    for epoch in range(epochs):
        model.train()
        losses = []
        for images, labels in batches(data, BATCH, epoch, seed):
            with run.clock.step():
                loss, params, state = step(params, state, images, labels)
            losses.append(loss)
            on_step(run, epoch)
        run.losses.append(float(np.mean([float(loss) for loss in losses])))
        model.eval()
        run.accuracies.append(_accuracy(predict, params, data))
    return run


def _accuracy(predict: Callable[[Params, Tensor], Tensor], params: Params, data: Digits) -> float:
    with no_grad():
        digits = predict(params, from_numpy(data.test_images))
    return float(np.mean(digits.numpy() == data.test_labels))
