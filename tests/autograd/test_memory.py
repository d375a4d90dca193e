"""No reference cycles: dropping the outputs frees the tape without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait
from plait.autograd import Function


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def x() -> plait.Tensor:
    return plait.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)


def exponential(x: Any) -> Any:
    return x.exp()


def in_place(x: Any) -> Any:
    y = x * 2.0
    y.mul_(x)
    return y.exp_()


def through_views(x: Any) -> Any:
    y = x * 2.0
    view = y[0]
    view.mul_(x[1])
    view.exp_()
    return y


class Square(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = x * x
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, _ = ctx.saved_tensors
        return g * x * 2.0


def function(x: Any) -> Any:
    return Square.apply(x)


@pytest.mark.parametrize("program", [exponential, in_place, through_views, function])
@pytest.mark.parametrize("walk", [False, True])
def test_dropping_the_output_frees_the_tape(
    program: Callable[[Any], Any], walk: bool, x: plait.Tensor
) -> None:
    y = program(x)
    node, tensor = weakref.ref(y.grad_fn), weakref.ref(y)
    if walk:
        y.sum().backward(retain_graph=True)
    del y
    assert tensor() is None
    assert node() is None


def test_backward_frees_saved_tensors_and_keeps_the_output(x: plait.Tensor) -> None:
    inner = x * 2.0
    saved = weakref.ref(inner)
    y = inner * inner
    del inner
    assert saved() is not None
    y.sum().backward()
    assert saved() is None
    assert y.grad_fn is not None


def test_only_what_is_needed_is_saved(x: plait.Tensor) -> None:
    constant = plait.tensor([[1.0, 1.0], [2.0, 2.0]])
    inner = x * 2.0
    saved = weakref.ref(inner)
    y = inner * constant  # the gradient of `inner` needs only `constant`
    del inner
    assert saved() is None
    y.sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0], [4.0, 4.0]]


def test_create_graph_by_grad_makes_no_cycle(x: plait.Tensor) -> None:
    y = x.exp()
    (g,) = plait.autograd.grad(y.sum(), x, create_graph=True)
    node, made = weakref.ref(y.grad_fn), weakref.ref(g)
    del y, g
    assert made() is None
    assert node() is None


def test_leaf_and_its_accumulator(x: plait.Tensor) -> None:
    leaf = plait.tensor([1.0], requires_grad=True)
    (leaf * 2.0).sum().backward()
    gone = weakref.ref(leaf)
    del leaf
    assert gone() is None


def test_a_long_tape_is_freed_without_recursion() -> None:
    leaf = plait.tensor([1.0], requires_grad=True)
    y = leaf
    for _ in range(20_000):
        y = y + leaf
    y.backward()
    assert leaf.grad.tolist() == [20_001.0]
    del y


def test_first_gradient_is_not_shared(x: plait.Tensor) -> None:
    other = plait.tensor([[0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    cotangent = plait.tensor([[1.0, 1.0], [1.0, 1.0]])
    (x + other).backward(cotangent)
    x.grad.add_(1.0)
    assert cotangent.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert other.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert x.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_gradient_seen_by_a_hook_is_not_shared(x: plait.Tensor) -> None:
    kept: list[Any] = []
    x.register_hook(kept.append)
    (x * 2.0).sum().backward()
    x.grad.zero_()
    assert kept[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_gradient_of_a_sum_is_dense(x: plait.Tensor) -> None:
    x.sum().backward()
    assert x.grad.is_contiguous()
    x.grad[0].zero_()
    assert x.grad.tolist() == [[0.0, 0.0], [1.0, 1.0]]
