"""A training step as one compiled program: the values of eager, one capture for all steps."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait import nn, optim

OPTIMIZERS = {
    "sgd": lambda: optim.SGD(lr=0.1),
    "sgd momentum": lambda: optim.SGD(lr=0.1, momentum=0.9),
    "adamw": lambda: optim.AdamW(lr=0.01),
}


def run(make_optimizer, backend: str | None, steps: int = 5):
    plait.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    optimizer = make_optimizer()

    def loss_of(params, x, target):
        return nn.functional.cross_entropy(nn.functional_call(model, params, x), target)

    def step(params, state, x, target):
        loss, grads = plait.func.value_and_grad(loss_of)(params, x, target)
        return loss, *optimizer.update(params, grads, state)

    if backend is not None:
        step = plait.compile(step, backend=backend, fullgraph=True)
    x = plait.randn(8, 6)
    target = plait.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    params = model.state_dict()
    state = optimizer.init(params)
    losses = []
    for _ in range(steps):
        loss, params, state = step(params, state, x, target)
        losses.append(loss.item())
    return losses, {name: p.numpy() for name, p in params.items()}, step


@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_step_equals_eager_with_dropout_on(name, backend):
    losses, params, _ = run(OPTIMIZERS[name], None)
    compiled_losses, compiled_params, step = run(OPTIMIZERS[name], backend)
    np.testing.assert_allclose(compiled_losses, losses, rtol=1e-5)
    for parameter, value in params.items():
        np.testing.assert_allclose(compiled_params[parameter], value, rtol=1e-3, atol=1e-5)
    assert len(step.entries) == 1 and not step.recompiles


def test_a_changed_learning_rate_is_noticed():
    optimizer = optim.SGD(lr=0.1)

    def update(params, grads):
        return optimizer.update(params, grads, {})[0]

    compiled = plait.compile(update, backend="aot_eager", fullgraph=True)
    ones = [plait.ones(2)]
    assert compiled(ones, ones)[0].tolist() == pytest.approx([0.9, 0.9])
    optimizer.lr = 0.5
    assert compiled(ones, ones)[0].tolist() == pytest.approx([0.5, 0.5])


def test_train_and_eval_are_noticed():
    model = nn.Dropout(0.5)
    compiled = plait.compile(model, backend="aot_eager", fullgraph=True)
    x = plait.ones(64)
    assert 0.0 in compiled(x).tolist()
    model.eval()
    assert compiled(x).tolist() == [1.0] * 64
