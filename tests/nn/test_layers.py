"""Layers against PyTorch, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait import nn
from plait.base.errors import InvalidArgument

LAYERS = {
    "linear": (lambda n: n.Linear(6, 4), (5, 6)),
    "linear without bias": (lambda n: n.Linear(6, 4, bias=False), (2, 5, 6)),
    "layer norm": (lambda n: n.LayerNorm(6), (5, 6)),
    "layer norm, two dims": (lambda n: n.LayerNorm((4, 6), eps=1e-3), (3, 4, 6)),
    "layer norm, plain": (lambda n: n.LayerNorm(6, elementwise_affine=False), (5, 6)),
    "gelu": (lambda n: n.GELU(), (5, 6)),
    "gelu tanh": (lambda n: n.GELU("tanh"), (5, 6)),
    "relu": (lambda n: n.ReLU(), (5, 6)),
    "dropout off": (lambda n: n.Dropout(0.5).eval(), (5, 6)),
    "network": (
        lambda n: n.Sequential(n.Linear(6, 8), n.LayerNorm(8), n.GELU(), n.Linear(8, 3)),
        (5, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_agrees_with_torch(name, torch, rng):
    make, shape = LAYERS[name]
    ours, theirs = make(nn), make(torch.nn)
    theirs.load_state_dict({n: torch.from_numpy(t.numpy()) for n, t in ours.state_dict().items()})
    data = rng.standard_normal(shape).astype(np.float32)
    x = plait.from_numpy(data.copy()).requires_grad_()
    y = torch.from_numpy(data.copy()).requires_grad_()
    ours_out, theirs_out = ours(x), theirs(y)
    (ours_out * ours_out).sum().backward()
    (theirs_out * theirs_out).sum().backward()
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    close(ours_out.detach().numpy(), theirs_out.detach().numpy())
    close(x.grad.numpy(), y.grad.numpy())
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    for parameter, p in ours.named_parameters():
        close(p.grad.numpy(), gradients[parameter].numpy())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_agree_with_torch(reduction, torch, rng):
    logits = rng.standard_normal((7, 5)).astype(np.float32)
    target = rng.integers(0, 5, 7)
    ours = nn.functional.cross_entropy(
        plait.from_numpy(logits), plait.from_numpy(target), reduction=reduction
    )
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(target), reduction=reduction
    )
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)
    ours = nn.functional.mse_loss(
        plait.from_numpy(logits), plait.from_numpy(logits[::-1].copy()), reduction=reduction
    )
    theirs = torch.nn.functional.mse_loss(
        torch.from_numpy(logits), torch.from_numpy(logits[::-1].copy()), reduction=reduction
    )
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)


def test_reduction_that_is_not_known():
    with pytest.raises(InvalidArgument, match="cross_entropy: argument 'reduction'"):
        nn.functional.cross_entropy(plait.ones(1, 2), plait.zeros(1), reduction="average")


def test_first_values_are_within_bounds_and_follow_the_seed():
    plait.manual_seed(3)
    first = nn.Linear(16, 8)
    plait.manual_seed(3)
    second = nn.Linear(16, 8)
    assert first.weight.tolist() == second.weight.tolist()
    values = np.abs(first.weight.detach().numpy())
    assert 0.1 < values.max() <= 0.25


def test_dropout_keeps_the_mean_and_scales():
    plait.manual_seed(0)
    out = nn.Dropout(0.25)(plait.ones(100, 100)).numpy()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(out.mean() - 1) < 0.02


def test_dropout_probability():
    with pytest.raises(InvalidArgument, match="Dropout: argument 'p'"):
        nn.Dropout(1.5)
