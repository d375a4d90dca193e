"""Checkpoints in eager mode: the same gradients, with less kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import plait
from plait.base.errors import AutogradError, InplaceError, InvalidArgument
from plait.dispatch.state import tls

F = plait.nn.functional


def block(x: Any, w: Any) -> Any:
    h = F.dropout((x @ w).sin(), 0.3, True)
    return (h * h).exp() @ w


def gradients(fn: Any, *, second: bool = False) -> list[Any]:
    plait.manual_seed(5)
    x, w = plait.ones(4, 6, requires_grad=True), plait.randn(6, 6, requires_grad=True)
    out = fn(x * 0.5, w).sum()
    if second:
        (g,) = plait.autograd.grad(out, [x], create_graph=True)
        out = (g * g).sum()
    grads = [g.numpy() for g in plait.autograd.grad(out, [x, w])]
    return [*grads, plait.rand(3).numpy()]  # the generator goes on as without a checkpoint


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_gradients_are_those_without_a_checkpoint(nested: bool, second: bool) -> None:
    def plain(x: Any, w: Any) -> Any:
        return block(block(x, w) * 0.1, w)

    def inner(x: Any, w: Any) -> Any:
        one = plait.checkpoint(block)
        return one(one(x, w) * 0.1, w)

    wrapped = plait.checkpoint(inner if nested else plain)
    expected, got = gradients(plain, second=second), gradients(wrapped, second=second)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-5)


def test_intermediates_are_dropped_and_come_back_once() -> None:
    runs: list[int] = []
    alive: list[Any] = []

    def region(x: Any) -> Any:
        runs.append(1)
        y = x.sin()
        if len(runs) == 1:
            alive.append(weakref.ref(y))
        return y.exp().tanh()

    x = plait.ones(5, requires_grad=True)
    out = plait.checkpoint(region)(x)
    gc.collect()
    assert alive[0]() is None and len(runs) == 1
    out.sum().backward(retain_graph=True)
    assert len(runs) == 2
    once = x.grad.numpy().copy()
    out.sum().backward()
    assert len(runs) == 3
    np.testing.assert_allclose(x.grad.numpy(), 2 * once)
    assert tls.saving is None


def test_modules_and_pytrees_work_and_nothing_happens_without_gradients() -> None:
    layer = plait.nn.Linear(3, 3)
    region = plait.checkpoint(lambda inputs, scale=1.0: {"out": layer(inputs["x"]).tanh() * scale})
    x = plait.ones(2, 3)
    region({"x": x}, scale=2.0)["out"].sum().backward()
    found = layer.weight.grad.numpy().copy()
    layer.weight.grad = None
    (layer(x).tanh() * 2.0).sum().backward()
    np.testing.assert_allclose(found, layer.weight.grad.numpy(), rtol=1e-6)
    with plait.no_grad():
        assert not region({"x": x})["out"].requires_grad
    assert region.__name__ == "<lambda>"


def test_a_function_that_changes_is_an_error() -> None:
    runs: list[int] = []

    def unsteady(x: Any) -> Any:
        runs.append(1)
        return x.sin().exp() if len(runs) == 1 else x.sin()

    out = plait.checkpoint(unsteady)(plait.ones(3, requires_grad=True) * 2.0)
    with pytest.raises(AutogradError, match="'unsteady' saved .* expected"):
        out.sum().backward()
    assert tls.saving is None


def test_writing_what_was_saved_is_eagers_error() -> None:
    def writes_inside(x: Any) -> Any:
        y = x.sin()
        z = y * y
        y.zero_()
        return z

    x = plait.ones(3, requires_grad=True)
    out = plait.checkpoint(writes_inside)(x)
    with pytest.raises(InplaceError):
        out.sum().backward()
    argument = x * 2.0
    out = plait.checkpoint(lambda t: t.sin().exp())(argument)
    with plait.no_grad():
        argument.add_(1.0)
    with pytest.raises(InplaceError):
        out.sum().backward()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InvalidArgument, match="argument 'policy' is 'always'"):
        plait.checkpoint(block, policy="always")
    with pytest.raises(InvalidArgument, match="argument 'fn' is a int"):
        plait.checkpoint(3)


def test_a_compiled_function_inside_is_run_again_too() -> None:
    compiled = plait.compile(block, backend="aot_eager")
    for a, b in zip(gradients(block), gradients(plait.checkpoint(compiled)), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-5)
