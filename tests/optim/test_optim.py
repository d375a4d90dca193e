"""Optimisers against PyTorch, eager and functional."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.base.errors import AutogradError, InvalidArgument
from plait.optim import SGD, AdamW

CASES = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd nesterov decay": (
        SGD,
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
    "adamw": (AdamW, {"lr": 0.01}),
    "adamw other": (
        AdamW,
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
}
SHAPES = ((4, 3), (3,), ())


def gradients(rng, dtype):
    return [[rng.standard_normal(s).astype(dtype) for s in SHAPES] for _ in range(12)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_steps_agree_with_torch(name, dtype, torch, rng):
    cls, options = CASES[name]
    start = [np.asarray(rng.standard_normal(s), dtype=dtype) for s in SHAPES]
    ours = [plait.from_numpy(a.copy()).requires_grad_() for a in start]
    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in start]
    optimizer = cls(ours, **options)
    other = getattr(torch.optim, cls.__name__)(theirs, **options)
    params, state = [p.detach().clone() for p in ours], None
    for step in gradients(rng, dtype):
        step = [np.asarray(g, dtype=dtype) for g in step]
        for p, q, g in zip(ours, theirs, step):
            p.grad, q.grad = plait.from_numpy(g.copy()), torch.from_numpy(g.copy())
        optimizer.step()
        other.step()
        state = state or optimizer.init(params)
        params, state = optimizer.update(params, [plait.from_numpy(g) for g in step], state)
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    for p, q, functional in zip(ours, theirs, params):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=tolerance)
        np.testing.assert_array_equal(p.detach().numpy(), functional.numpy())


def test_update_takes_trees_and_leaves_its_arguments_alone():
    params = {"a": plait.ones(2), "b": {"c": plait.ones(3)}}
    grads = {"a": plait.ones(2), "b": {"c": plait.ones(3)}}
    optimizer = AdamW(lr=0.1)
    state = optimizer.init(params)
    new, new_state = optimizer.update(params, grads, state)
    assert params["a"].tolist() == [1.0, 1.0] and state["step"].item() == 0
    assert new["b"]["c"].shape == (3,) and new_state["step"].item() == 1
    assert not new["a"].requires_grad


def test_update_of_another_structure():
    optimizer = SGD(lr=0.1)
    with pytest.raises(InvalidArgument, match="SGD.update: argument 'grads'"):
        optimizer.update({"a": plait.ones(2)}, {"b": plait.ones(2)}, {})


def test_parameters_without_gradient_are_left_alone():
    params = [plait.ones(2, requires_grad=True), plait.ones(2, requires_grad=True)]
    params[0].grad = plait.ones(2)
    optimizer = AdamW(params, lr=0.1)
    optimizer.step()
    assert params[1].tolist() == [1.0, 1.0]
    assert params[0].tolist() != [1.0, 1.0]
    optimizer.zero_grad()
    assert params[0].grad is None


def test_state_round_trip():
    def trained(steps, optimizer, param):
        for _ in range(steps):
            param.grad = plait.ones(2)
            optimizer.step()

    one = plait.ones(2, requires_grad=True)
    whole = AdamW([one], lr=0.1)
    trained(4, whole, one)
    two = plait.ones(2, requires_grad=True)
    first = AdamW([two], lr=0.1)
    trained(2, first, two)
    second = AdamW([two], lr=0.1)
    second.load_state_dict(first.state_dict())
    trained(2, second, two)
    assert one.tolist() == two.tolist()


def test_bad_arguments():
    with pytest.raises(InvalidArgument, match="SGD: argument 'lr' is negative"):
        SGD(lr=-1.0)
    with pytest.raises(InvalidArgument, match="AdamW: argument 'betas'"):
        AdamW(betas=(0.9, 1.0))
    with pytest.raises(InvalidArgument, match="SGD: argument 'nesterov'"):
        SGD(nesterov=True)
    with pytest.raises(InvalidArgument, match="argument 'params' is empty"):
        SGD([])
    with pytest.raises(AutogradError, match="made without parameters"):
        SGD(lr=0.1).step()
