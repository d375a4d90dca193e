"""The gradient checker passes right rules, and names what is wrong with wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait.base.errors import AutogradError, InvalidArgument
from plait.testing.gradcheck import gradcheck, gradgradcheck
from plait.testing.samples import make, transposed


def _x(*shape: int, seed: int = 0) -> Any:
    return make(*shape, dtype=plait.float64, low=0.2, high=2.0, seed=seed).requires_grad_()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, y: x * y + x.sin(),
        lambda x, y: (x @ y.t()).softmax(1),
        lambda x, y: (x.sum(0), (x - y).exp()),
        lambda x, y: plait.where(x > y, x, y * x),
        lambda x, y: (x.log() * y, plait.argmax(x)),
    ],
)
def test_right_gradients_pass(fn: Any) -> None:
    inputs = [_x(3, 4), _x(3, 4, seed=1)]
    assert gradcheck(fn, inputs)
    assert gradgradcheck(fn, inputs)


def test_any_memory_order_and_no_elements() -> None:
    turned = transposed(3, 4, dtype=plait.float64).requires_grad_()
    assert gradcheck(lambda x: x * x, turned)
    assert gradcheck(lambda x: x * 2, _x(0, 3))


class _Wrong(plait.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * x  # half of what it should be


class _WrongTwice(_Wrong):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * x.detach() * 2  # right, but loses its own gradient


def test_a_wrong_gradient_is_named() -> None:
    with pytest.raises(AutogradError, match=r"argument 1 \(shape \(3,\)\) is wrong"):
        gradcheck(lambda y, x: y + _Wrong.apply(x), [_x(3), _x(3)])


def test_a_wrong_second_gradient_is_found() -> None:
    assert gradcheck(_WrongTwice.apply, [_x(3)])
    with pytest.raises(AutogradError, match="argument 0"):
        gradgradcheck(_WrongTwice.apply, [_x(3)])


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="float64"):
        gradcheck(lambda x: x, [make(2).requires_grad_()])
    with pytest.raises(InvalidArgument, match="requires grad"):
        gradcheck(lambda x: x, [make(2)])
    with pytest.raises(AutogradError, match="no result"):
        gradcheck(lambda x: x.detach(), [_x(2)])
