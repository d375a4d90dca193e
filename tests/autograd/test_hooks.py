"""Hooks on tensors, leaves and nodes; retained gradients."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait.base.errors import ArgumentTypeError, AutogradError


@pytest.fixture
def x() -> plait.Tensor:
    return plait.tensor([1.0, 2.0], requires_grad=True)


def test_hook_of_a_computed_tensor_replaces_its_gradient(x: plait.Tensor) -> None:
    seen: list[Any] = []
    y = x * 3.0
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g * 2.0)
    y.sum().backward()
    assert seen == [[1.0, 1.0]]
    assert x.grad.tolist() == [6.0, 6.0]


def test_hook_of_a_leaf_runs_on_the_whole_gradient(x: plait.Tensor) -> None:
    seen: list[Any] = []
    handle = x.register_hook(lambda g: seen.append(g.tolist()))
    (x * 2.0 + x * 3.0).sum().backward()
    handle.remove()
    (x * 2.0).sum().backward()
    assert seen == [[5.0, 5.0]]


def test_hook_as_context_manager(x: plait.Tensor) -> None:
    with x.register_hook(lambda g: g * 0.0):
        x.sum().backward()
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_hook_sees_what_grad_returns(x: plait.Tensor) -> None:
    y = x * 3.0
    y.register_hook(lambda g: g * 10.0)
    a, b = plait.autograd.grad(y.sum(), [y, x])
    assert (a.tolist(), b.tolist()) == ([10.0, 10.0], [30.0, 30.0])


def test_hook_stays_with_the_value_it_was_registered_on(x: plait.Tensor) -> None:
    seen: list[Any] = []
    y = x * 1.0
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.mul_(5.0)
    y.sum().backward()
    assert seen == [[5.0, 5.0]]


def test_hook_must_return_a_tensor(x: plait.Tensor) -> None:
    x.register_hook(lambda g: 1.0)
    with pytest.raises(ArgumentTypeError, match="returned a float"):
        x.sum().backward()


def test_post_accumulate_hook(x: plait.Tensor) -> None:
    seen: list[Any] = []
    x.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.tolist()))
    (x * 2.0).sum().backward()
    assert seen == [[2.0, 2.0]]
    with pytest.raises(AutogradError, match="leaf"):
        (x * 2.0).register_post_accumulate_grad_hook(print)


def test_node_hooks(x: plait.Tensor) -> None:
    seen: list[Any] = []
    y = x * 3.0
    node = y.grad_fn
    node.register_prehook(lambda grads: (grads[0] * 2.0,))
    node.register_hook(
        lambda inputs, outputs: seen.append((inputs[0].tolist(), outputs[0].tolist()))
    )
    node.register_hook(lambda inputs, outputs: (inputs[0] * 10.0, *inputs[1:]))
    y.sum().backward()
    assert seen == [([6.0, 6.0], [2.0, 2.0])]
    assert x.grad.tolist() == [60.0, 60.0]


def test_retain_grad(x: plait.Tensor) -> None:
    y = x * 3.0
    y.retain_grad()
    assert y.retains_grad
    assert not x.retains_grad
    (y * y).sum().backward()
    assert y.grad.tolist() == [6.0, 12.0]
    with pytest.raises(AutogradError, match="retain_grad"):
        x.detach().retain_grad()


def test_retained_gradient_follows_an_inplace_write(x: plait.Tensor) -> None:
    y = x * 3.0
    y.retain_grad()
    y.mul_(5.0)
    (y * 2.0).sum().backward()
    assert y.grad.tolist() == [2.0, 2.0]


def test_retain_grad_keeps_nothing_alive(x: plait.Tensor) -> None:
    y = x * 3.0
    y.retain_grad()
    z = y.sum()
    del y
    z.backward()
    assert x.grad.tolist() == [3.0, 3.0]
