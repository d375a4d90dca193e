"""Forward mode, Jacobians and Hessians beside `torch.func`, with each other, vmap and compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import plait
from plait.base.errors import ArgumentTypeError, AutogradError, InvalidArgument, ShapeMismatch
from plait.dispatch.state import tls

torch = pytest.importorskip("torch")
SYSTEMS = ((torch, torch.func), (plait, plait.func))


@pytest.fixture(autouse=True)
def state_is_as_before() -> Any:
    def state() -> Any:
        return tls.include, tls.exclude, tls.grad_enabled, tls.vmap_levels

    before = state()
    yield
    assert state() == before


def arrays(m: Any, *shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(1)
    return [m.tensor(rng.standard_normal(s), dtype=m.float64) for s in shapes]


def flat(result: Any) -> list[Any]:
    return [t.detach().numpy() for t in optree.tree_leaves(result)]


def assert_same(found: Any, wanted: Any) -> None:
    mine, theirs = flat(found), flat(wanted)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


# name -> (function of (m, *tensors), shapes)
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "pointwise": (lambda m, x: m.sin(x) * m.exp(-x) + x**3, ((4,),)),
    "matmul": (lambda m, x, w: m.tanh(x @ w), ((2, 3), (3, 4))),
    "softmax": (lambda m, x: m.softmax(x, -1) @ m.tensor([1.0, 2, 3], dtype=x.dtype), ((2, 3),)),
    "log_softmax": (lambda m, x: m.log_softmax(x, 0), ((3, 2),)),
    "reductions": (lambda m, x: (x.sum(0), x.mean(), x.var(1), x.logsumexp(0)), ((3, 4),)),
    "views": (lambda m, x: x.t()[1:].reshape(-1) * x.flatten()[:4], ((2, 3),)),
    "extrema": (lambda m, x: (x.amax(1), x.amin(0), x.prod(1), x.cumsum(0)), ((3, 4),)),
    "joins": (lambda m, x, y: m.cat([x * y, m.stack([x[0], y[1]])], 0), ((2, 3), (2, 3))),
    "choice": (lambda m, x: m.where(x > 0, x * x, -x) + m.relu(x), ((5,),)),
    "without dims": (lambda m, x: x.sin() * x, ((),)),
    "dict": (lambda m, x, y: {"a": x * y, "b": [x.sum()]}, ((3,), (3,))),
    "in place": (lambda m, x: (x * 1).mul_(x).add_(2.0), ((3,),)),
    "power": (lambda m, x, y: (x * x + 1) ** y, ((3,), (3,))),
}


def arguments(name: str, m: Any) -> tuple[Any, list[Any], Any]:
    f, shapes = FUNCTIONS[name]
    numbers = tuple(range(len(shapes)))
    return (lambda *t: f(m, *t)), arrays(m, *shapes), numbers if len(numbers) > 1 else 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobians_are_pytorchs_both_ways(name: str) -> None:
    theirs, targs, argnums = arguments(name, torch)
    ours, args, _ = arguments(name, plait)
    wanted = torch.func.jacrev(theirs, argnums)(*targs)
    assert_same(plait.func.jacrev(ours, argnums)(*args), wanted)
    assert_same(plait.func.jacfwd(ours, argnums)(*args), wanted)
    for chunk in (1, 3):
        assert_same(plait.func.jacrev(ours, argnums, chunk_size=chunk)(*args), wanted)
        assert_same(plait.func.jacfwd(ours, argnums, chunk_size=chunk)(*args), wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pushing_tangents_is_pytorchs(name: str) -> None:
    theirs, targs, _ = arguments(name, torch)
    ours, args, _ = arguments(name, plait)
    wanted = torch.func.jvp(theirs, tuple(targs), tuple(t.cos() for t in targs))
    found = plait.func.jvp(ours, tuple(args), tuple(t.cos() for t in args))
    assert_same(found, wanted)
    assert not any(t.requires_grad for t in optree.tree_leaves(found))
    out, push = plait.func.linearize(ours, *args)
    assert_same((out, push(*[t.cos() for t in args])), wanted)
    assert_same(push(*[t.cos() for t in args]), wanted[1])  # as often as one likes


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
@pytest.mark.parametrize("name", ["matmul", "softmax", "reductions", "joins", "power"])
def test_compiled_jacobians_are_eager_ones(name: str, backend: str) -> None:
    f, args, argnums = arguments(name, plait)
    tangents = tuple(t.cos() for t in args)
    for transform in (
        plait.func.jacrev(f, argnums),
        plait.func.jacfwd(f, argnums),
        lambda *t: plait.func.jvp(f, t, tangents),
    ):
        compiled = plait.compile(transform, backend=backend)
        assert_same(compiled(*args), transform(*args))


def network(m: Any) -> Callable[..., Any]:
    def loss(params: Any, x: Any, y: Any) -> Any:
        hidden = m.tanh(x @ params["w1"] + params["b1"])
        out = hidden @ params["w2"] + params["b2"]
        return ((out - y) ** 2).mean()

    return loss


def network_arguments(m: Any) -> tuple[Any, Any, Any]:
    w1, b1, w2, b2, x, y = arrays(m, (3, 4), (4,), (4, 2), (2,), (5, 3), (5, 2))
    return {"w1": w1, "b1": b1, "w2": w2, "b2": b2}, x, y


# name -> (m, func) -> result, where m is plait or torch
COMPOSED: dict[str, Callable[[Any, Any], Any]] = {
    "hessian of a network": lambda m, f: f.hessian(network(m))(*network_arguments(m)),
    "per-sample gradients": lambda m, f: f.vmap(f.grad(network(m)), in_dims=(None, 0, 0))(
        *network_arguments(m)
    ),
    "per-sample values and gradients": lambda m, f: f.vmap(
        f.grad_and_value(network(m)) if m is torch else _swapped(f.value_and_grad(network(m))),
        in_dims=(None, 0, 0),
    )(*network_arguments(m)),
    "per-sample Jacobians": lambda m, f: f.vmap(f.jacrev(lambda x, w: m.tanh(x @ w)), (0, None))(
        *arrays(m, (5, 3), (3, 2))
    ),
    "per-sample Jacobians forward": lambda m, f: f.vmap(
        f.jacfwd(lambda x, w: m.tanh(x @ w), argnums=(0, 1)), (0, None)
    )(*arrays(m, (5, 3), (3, 2))),
    "per-sample Hessians": lambda m, f: f.vmap(f.hessian(lambda x: (x.sin() * x).prod()))(
        *arrays(m, (4, 3))
    ),
    "Jacobian of a map": lambda m, f: f.jacrev(f.vmap(lambda x: x.sin().sum() * x))(
        *arrays(m, (3, 2))
    ),
    "Jacobian forward of a map": lambda m, f: f.jacfwd(f.vmap(lambda x: x.sin().sum() * x))(
        *arrays(m, (3, 2))
    ),
    "reverse over forward": lambda m, f: f.jacrev(f.jacfwd(lambda x: (x**3).sum() * x))(
        *arrays(m, (3,))
    ),
    "forward over forward": lambda m, f: f.jacfwd(f.jacfwd(lambda x: (x**3).sum() * x))(
        *arrays(m, (3,))
    ),
    "third derivatives": lambda m, f: f.jacfwd(f.hessian(lambda x: (x.sin() * x.cos()).prod()))(
        *arrays(m, (3,))
    ),
    "Hessian-vector products": lambda m, f: f.jvp(
        f.grad(lambda x: (x.exp() * x).sum() ** 2), *[(t,) for t in arrays(m, (3,), (3,))]
    ),
    "Hessian-vector products of samples": lambda m, f: f.vmap(
        lambda x, v: f.jvp(f.grad(lambda x: (x.exp() * x).sum() ** 2), (x,), (v,))[1]
    )(*arrays(m, (4, 3), (4, 3))),
    "gradient of a push": lambda m, f: f.grad(
        lambda x: f.jvp(lambda y: m.sin(y) * y, (x,), (x * 2,))[1].sum()
    )(*arrays(m, (3,))),
    "gradient of gradients": lambda m, f: f.grad(
        lambda x: f.grad(lambda y: f.grad(lambda z: (z**4).sum())(y).sum())(x).sum()
    )(*arrays(m, (3,))),
    "mapped pull-back": lambda m, f: f.vmap(
        f.vjp(lambda x: x.sin() * x.sum(), *arrays(m, (3,)))[1]
    )(*arrays(m, (5, 3))),
    "an outer variable": lambda m, f: f.grad(
        lambda a: f.vmap(f.grad(lambda x: (x * x * a).sum()))(arrays(m, (3, 2))[0]).sum()
    )(m.tensor(2.0, dtype=m.float64)),
    "a map inside a gradient inside a map": lambda m, f: f.vmap(
        f.grad(lambda a: f.vmap(lambda x: (x * a).sin().sum())(arrays(m, (3, 2))[0]).sum())
    )(*arrays(m, (4, 2))),
    "gradients of two levels": lambda m, f: f.vmap(
        f.vmap(f.grad(lambda x, y: (x * y).sin() * x), in_dims=(None, 0)), in_dims=(0, None)
    )(*arrays(m, (3,), (2,))),
}  # fmt: skip


def _swapped(f: Callable[..., Any]) -> Callable[..., Any]:
    def gradient_first(*args: Any) -> Any:
        value, gradient = f(*args)
        return gradient, value

    return gradient_first


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_transforms_are_pytorchs(name: str) -> None:
    wanted, found = (COMPOSED[name](m, f) for m, f in SYSTEMS)
    assert_same(found, wanted)
    assert not any(t.requires_grad for t in optree.tree_leaves(found))


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_transforms_compiled_are_eager(name: str) -> None:
    run = COMPOSED[name]
    wanted = run(plait, plait.func)
    compiled = plait.compile(lambda: run(plait, plait.func), backend="aot_eager")
    assert_same(compiled(), wanted)


def test_per_sample_gradients_compiled_natively() -> None:
    params, x, y = network_arguments(plait)
    per_sample = plait.vmap(plait.func.grad(network(plait)), in_dims=(None, 0, 0))
    hessian = plait.func.hessian(network(plait))
    for f in (per_sample, hessian, plait.vmap(hessian, in_dims=(None, 0, 0))):
        compiled = plait.compile(f)
        assert_same(compiled(params, x, y), f(params, x, y))
        assert_same(compiled(params, x[:3], y[:3]), f(params, x[:3], y[:3]))
        more = plait.cat([x, x]), plait.cat([y, y])
        assert_same(compiled(params, *more), f(params, *more))
        assert len(compiled.entries) == 2


def test_a_compiled_function_inside_a_transform() -> None:
    params, x, y = network_arguments(plait)
    compiled = plait.compile(network(plait))
    wanted = plait.func.value_and_grad(network(plait))(params, x, y)
    assert_same(plait.func.value_and_grad(compiled)(params, x, y), wanted)
    per_sample = plait.vmap(plait.func.grad(compiled), in_dims=(None, 0, 0))
    wanted = plait.vmap(plait.func.grad(network(plait)), in_dims=(None, 0, 0))(params, x, y)
    assert_same(per_sample(params, x, y), wanted)
    with pytest.raises(AutogradError, match="create_graph=True through a compiled function"):
        plait.func.hessian(compiled)(params, x, y)
    assert_same(
        plait.compile(plait.func.hessian(compiled))(params, x, y),
        plait.func.hessian(network(plait))(params, x, y),
    )


def test_the_tape_goes_through_transforms() -> None:
    """Results stay connected to what requires grad outside, and to nothing else."""
    (x, t), scale = arrays(plait, (3,), (3,)), plait.tensor(2.0, requires_grad=True)
    out, moved = plait.func.jvp(lambda y: (y * scale).sin(), (x,), (t,))
    assert out.requires_grad and moved.requires_grad
    (found,) = plait.autograd.grad(moved.sum(), scale)
    wanted = (t * (x * scale).cos() - t * scale * x * (x * scale).sin()).sum()
    np.testing.assert_allclose(found.item(), wanted.item(), rtol=1e-6)
    jacobian = plait.func.jacrev(lambda y: (y * scale).sin())(x)
    assert jacobian.requires_grad
    with plait.no_grad():
        assert not plait.func.jacrev(lambda y: (y * scale).sin())(x).requires_grad
        assert_same(plait.func.jacfwd(lambda y: (y * scale).sin())(x), jacobian)
    x.requires_grad_()
    assert plait.func.jacfwd(lambda y: y.sin())(x).requires_grad
    assert x.grad is None and scale.grad is None


def test_auxiliary_results() -> None:
    x, t = arrays(plait, (3,), (3,))
    f = lambda y: (y.sin(), {"seen": y * 2})
    out, moved, aux = plait.func.jvp(f, (x,), (t,), has_aux=True)
    assert_same((out, moved, aux["seen"]), (x.sin(), t * x.cos(), x * 2))
    for transform in (plait.func.jacrev, plait.func.jacfwd):
        jacobian, aux = transform(f, has_aux=True)(x)
        assert_same(aux["seen"], x * 2)
        assert_same(jacobian, transform(lambda y: y.sin())(x))
        assert not aux["seen"].requires_grad


def test_negative_and_several_argnums() -> None:
    x, y = arrays(plait, (2,), (3,))
    f = lambda a, b: a.sum() * b
    assert plait.func.jacfwd(f, argnums=-1)(x, y).shape == (3, 3)
    found = plait.func.jacrev(f, argnums=(1, 0))(x, y)
    assert [tuple(t.shape) for t in found] == [(3, 3), (3, 2)]


def test_integers_in_results_have_tangents_of_zero() -> None:
    x = plait.tensor([1.0, 3.0, 2.0])
    out, moved = plait.func.jvp(lambda y: (y * 2, y.argmax()), (x,), (x,))
    assert out[1].item() == 1 and moved[1].item() == 0
    assert moved[0].tolist() == [2.0, 6.0, 4.0]


X = plait.ones(3)
# name -> (call, class, part of the message)
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "primals": (
        lambda: plait.func.jvp(plait.sin, X, (X,)), ArgumentTypeError, "Expected primals to be a",
    ),
    "tangents": (
        lambda: plait.func.jvp(plait.sin, (X,), X), ArgumentTypeError, "Expected tangents to be a",
    ),
    "structure": (
        lambda: plait.func.jvp(plait.sin, (X,), (X, X)), ShapeMismatch,
        "Expected primals and tangents to have the same python structure",
    ),
    "shape of a tangent": (
        lambda: plait.func.jvp(plait.sin, (X,), (plait.ones(2),)), ShapeMismatch,
        r"a tangent has shape \(2,\); expected a tensor of shape \(3,\)",
    ),
    "integers": (
        lambda: plait.func.jvp(plait.sin, (plait.ones(3, dtype=plait.int64),), (X,)),
        ArgumentTypeError, "expected floating or complex tensors only",
    ),
    "result of jvp": (
        lambda: plait.func.jvp(lambda x: 3, (X,), (X,)), ArgumentTypeError, "returned a int",
    ),
    "result of jacrev": (
        lambda: plait.func.jacrev(lambda x: x.argmax())(X), ArgumentTypeError,
        "only floating tensors",
    ),
    "argument of jacfwd": (
        lambda: plait.func.jacfwd(lambda x: x * 2)(plait.ones(2, dtype=plait.int64)),
        ArgumentTypeError, "expected floating or complex tensors only",
    ),
    "argnums": (
        lambda: plait.func.jacrev(plait.sin, argnums=1)(X), InvalidArgument,
        "'argnums' = 1 is out of range",
    ),
    "inside": (
        lambda: plait.func.hessian(lambda x: (x + plait.ones(2)).sum())(X), ShapeMismatch,
        "broadcast",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name: str) -> None:
    call, cls, text = ERRORS[name]
    with pytest.raises(cls, match=text):
        call()
