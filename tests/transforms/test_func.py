"""Functional gradients over pytrees."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

import plait
from plait.base.errors import ArgumentTypeError, InvalidArgument, ShapeMismatch
from plait.transforms.func import grad, value_and_grad, vjp


def loss(params: Any, x: Any) -> Any:
    return (params["w"] * x * x + params["b"][0]).sum()


@pytest.fixture
def params() -> Any:
    return {"w": plait.tensor([1.0, 2.0]), "b": (plait.tensor(3.0), plait.tensor([9.0]))}


@pytest.fixture
def x() -> plait.Tensor:
    return plait.tensor([2.0, 5.0])


def test_structure_of_gradients(params: Any, x: plait.Tensor) -> None:
    value, grads = value_and_grad(loss)(params, x)
    assert value.item() == 60.0
    assert not value.requires_grad
    assert grads["w"].tolist() == [4.0, 25.0]
    assert grads["b"][0].item() == 2.0
    assert grads["b"][1].tolist() == [0.0]  # unused
    assert not params["w"].requires_grad
    assert params["w"].grad is None


def test_argnums(params: Any, x: plait.Tensor) -> None:
    (by_params, by_x) = grad(loss, argnums=(0, 1))(params, x)
    assert by_params["w"].tolist() == [4.0, 25.0]
    assert by_x.tolist() == [4.0, 20.0]
    assert grad(loss, argnums=-1)(params, x).tolist() == [4.0, 20.0]
    with pytest.raises(InvalidArgument, match="argnums"):
        grad(loss, argnums=2)(params, x)


def test_aux(params: Any, x: plait.Tensor) -> None:
    def with_aux(params: Any, x: Any) -> Any:
        return loss(params, x), {"scaled": params["w"] * 2.0, "n": 3}

    (value, aux), grads = value_and_grad(with_aux, has_aux=True)(params, x)
    assert value.item() == 60.0
    assert aux["n"] == 3
    assert not aux["scaled"].requires_grad
    assert grads["w"].tolist() == [4.0, 25.0]
    grads, aux = grad(with_aux, has_aux=True)(params, x)
    assert aux["scaled"].tolist() == [2.0, 4.0]


def test_nested() -> None:
    def cube(t: Any) -> Any:
        return (t * t * t).sum()

    x = plait.tensor([1.0, 2.0])
    second = grad(lambda t: grad(cube)(t).sum())
    assert second(x).tolist() == [6.0, 12.0]
    third = grad(lambda t: second(t).sum())
    assert third(x).tolist() == [6.0, 6.0]


def test_connected_to_what_requires_grad(x: plait.Tensor) -> None:
    w = plait.tensor([3.0, 4.0], requires_grad=True)
    g = grad(lambda t: (t * t * w).sum())(x)
    assert g.requires_grad
    g.sum().backward()
    assert w.grad.tolist() == [4.0, 10.0]
    followed = x.detach().requires_grad_()
    grad(lambda t: (t * t * t).sum())(followed).sum().backward()
    assert followed.grad.tolist() == [12.0, 30.0]


def test_inside_no_grad(params: Any, x: plait.Tensor) -> None:
    with plait.no_grad():
        value, grads = value_and_grad(loss)(params, x)
    assert not value.requires_grad
    assert grads["w"].tolist() == [4.0, 25.0]
    assert not grads["w"].requires_grad


def test_constant_function(x: plait.Tensor) -> None:
    value, g = value_and_grad(lambda t: plait.tensor(1.0))(x)
    assert (value.item(), g.tolist()) == (1.0, [0.0, 0.0])


def test_errors(params: Any, x: plait.Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="one element"):
        grad(lambda t: t * 2.0)(x)
    with pytest.raises(ArgumentTypeError, match=r"int64 at \['n'\]"):
        grad(lambda p: p["w"].sum())({"w": x, "n": plait.tensor([1])})
    with pytest.raises(ArgumentTypeError, match="pair"):
        grad(loss, has_aux=True)(params, x)


def test_vjp(x: plait.Tensor) -> None:
    w = plait.tensor([3.0, 4.0])
    out, pull = vjp(lambda a, b: {"p": a * b, "s": a + b}, x, w)
    assert out["p"].tolist() == [6.0, 20.0]
    assert not out["p"].requires_grad
    ones = plait.tensor([1.0, 1.0])
    by_x, by_w = pull({"p": ones, "s": ones * 10.0})
    assert (by_x.tolist(), by_w.tolist()) == ([13.0, 14.0], [12.0, 15.0])
    by_x, _ = pull({"p": ones * 2.0, "s": ones})
    assert by_x.tolist() == [7.0, 9.0]
    with pytest.raises(ShapeMismatch, match="structure"):
        pull(ones)
    _, pull, aux = vjp(lambda a: (a * a, "extra"), x, has_aux=True)
    assert aux == "extra"


def test_against_pytorch(torch: ModuleType) -> None:
    def run(m: Any) -> Any:
        f = lambda a, b: (a * b * a).exp().sum()
        a, b = m.tensor([0.1, 0.2]), m.tensor([0.3, 0.4])
        hessian_row = m.func.grad(lambda t: (m.func.grad(f)(t, b) * b).sum())(a)
        value, grads = (
            m.func.value_and_grad(f, argnums=(0, 1))(a, b)
            if m is plait
            else (f(a, b), m.func.grad(f, argnums=(0, 1))(a, b))
        )
        return [value.item(), grads[0].tolist(), grads[1].tolist(), hessian_row.tolist()]

    for ours, theirs in zip(run(plait), run(torch), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
