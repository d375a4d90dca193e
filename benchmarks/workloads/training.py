"""A whole training step of a 64-128-10 network: forward, backward, SGD; batches of 64 and 1024."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.systems import System

__all__ = ["WORKS", "prepare"]

UNIT = "us"
LEARNING_RATE = 0.01
WORKS = {"MLP step, batch 64": 64, "MLP step, batch 1024": 1024}


def arrays(batch: int) -> tuple[dict[str, np.ndarray[Any, Any]], Any, Any]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32) / 8
    params = {"w1": draw(128, 64), "b1": draw(128), "w2": draw(10, 128), "b2": draw(10)}
    return params, rng.standard_normal((batch, 64), dtype=np.float32), rng.integers(0, 10, batch)


def loss_of(ns: Any, params: dict[str, Any], x: Any, target: Any) -> Any:
    functional = ns.nn.functional
    hidden = functional.relu(functional.linear(x, params["w1"], params["b1"]))
    return functional.cross_entropy(functional.linear(hidden, params["w2"], params["b2"]), target)


def prepare(system: System, work: str) -> Callable[[], Any]:
    """A training step that goes on from the parameters of the one before."""
    make = {"torch": torch_step, "plait": plait_step, "jax": jax_step}[system.package]
    params, x, target = arrays(WORKS[work])
    return make(system, params, system.tensor(x), system.tensor(target))


def torch_step(system: System, params: Any, x: Any, target: Any) -> Callable[[], Any]:
    """The usual eager step, or one compiled program; the update is in place either way."""
    torch = system.ns
    if not system.is_compiled:
        return torch_eager_step(system, params, x, target)
    owned = {name: system.tensor(a) for name, a in params.items()}

    def program(params: Any, x: Any, target: Any) -> Any:
        grads, loss = torch.func.grad_and_value(lambda p: loss_of(torch, p, x, target))(params)
        for name, p in params.items():
            p.sub_(grads[name] * LEARNING_RATE)
        return loss

    compiled = system.compile(program)
    return lambda: compiled(owned, x, target)


def torch_eager_step(system: System, params: Any, x: Any, target: Any) -> Callable[[], Any]:
    torch = system.ns
    owned = {name: system.tensor(a, requires_grad=True) for name, a in params.items()}
    optimizer = torch.optim.SGD(list(owned.values()), lr=LEARNING_RATE)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(torch, owned, x, target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def plait_step(system: System, params: Any, x: Any, target: Any) -> Callable[[], Any]:
    """The functional step, compiled as one program, or the usual eager one."""
    plait = system.ns
    if not system.is_compiled:
        return plait_eager_step(system, params, x, target)
    optimizer = plait.optim.SGD(lr=LEARNING_RATE)

    def program(params: Any, x: Any, target: Any) -> Any:
        loss, grads = plait.func.value_and_grad(lambda p: loss_of(plait, p, x, target))(params)
        params, _ = optimizer.update(params, grads, {})
        return loss, params

    compiled = system.compile(program)
    owned = {name: system.tensor(a) for name, a in params.items()}

    def step() -> Any:
        nonlocal owned
        loss, owned = compiled(owned, x, target)
        return loss

    return step


def plait_eager_step(system: System, params: Any, x: Any, target: Any) -> Callable[[], Any]:
    plait = system.ns
    owned = {name: system.tensor(a, requires_grad=True) for name, a in params.items()}
    optimizer = plait.optim.SGD(owned.values(), lr=LEARNING_RATE)

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of(plait, owned, x, target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def jax_step(system: System, params: Any, x: Any, target: Any) -> Callable[[], Any]:
    """The functional step, compiled as one program."""
    from benchmarks.jax_names import value_and_grad

    def program(params: Any, x: Any, target: Any) -> Any:
        loss, grads = value_and_grad(lambda p: loss_of(system.ns, p, x, target))(params)
        return loss, {name: p - grads[name] * LEARNING_RATE for name, p in params.items()}

    compiled = system.compile(program)
    owned = {name: system.tensor(a) for name, a in params.items()}

    def step() -> Any:
        nonlocal owned
        loss, owned = compiled(owned, x, target)
        return loss

    return step


def check(system: System, work: str) -> float:
    """Relative difference of the loss after 20 steps from the same in float64 NumPy."""
    step = prepare(system, work)
    for _ in range(19):
        step()
    got = float(system.array(step()))
    expected = _numpy_loss(work, 20)
    return abs(got - expected) / abs(expected)


def _numpy_loss(work: str, steps: int) -> float:
    params, x, target = arrays(WORKS[work])
    w1, b1, w2, b2 = (params[n].astype(np.float64) for n in ("w1", "b1", "w2", "b2"))
    loss, rows = 0.0, np.arange(len(target))
    for _ in range(steps):
        h = np.maximum(x @ w1.T + b1, 0)
        z = h @ w2.T + b2
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = -np.log(p[rows, target]).mean()
        p[rows, target] -= 1
        dz = p / len(target)
        dh = (dz @ w2) * (h > 0)
        w2, b2 = w2 - LEARNING_RATE * dz.T @ h, b2 - LEARNING_RATE * dz.sum(0)
        w1, b1 = w1 - LEARNING_RATE * dh.T @ x, b1 - LEARNING_RATE * dh.sum(0)
    return float(loss)
