"""Random programs with views and in-place writes: compiled does what eager does, or both refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait.testing.programs import Program, check_program

ROWS, COLUMNS = 4, 4

UNARY: list[Callable[[Any], Any]] = [
    lambda t: t * 0.5,
    lambda t: t.sin(),
    lambda t: plait.relu(t),
    lambda t: t + 1.0,
    lambda t: t.tanh(),
]
VIEWS: list[Callable[[Any], Any]] = [
    lambda t: t.t(),
    lambda t: t[1:3],
    lambda t: t[:, ::2],
    lambda t: t.unsqueeze(0).squeeze(0),
    lambda t: t.view(tuple(t.shape)),
    lambda t: t.detach(),
    lambda t: t.permute(1, 0),
    lambda t: t.unbind(0)[1].unsqueeze(0),
    lambda t: t.diagonal().unsqueeze(1),
    lambda t: t.expand(tuple(t.shape)),
]
WRITES: list[Callable[[Any, Any], Any]] = [
    lambda t, s: t.add_(s),
    lambda t, s: t.mul_(0.5),
    lambda t, s: t.zero_(),
    lambda t, s: t.sub_(s, alpha=0.25),
    lambda t, s: t.copy_(s.expand(tuple(t.shape))),
    lambda t, s: t.fill_(2.0),
]


def random_program(seed: int) -> Program:
    """A program made of about ten random steps; its choices are fixed before it runs."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 1_000_000, 64).tolist()
    kinds = rng.choice(
        ["unary", "binary", "view", "view", "write", "write", "quiet write"], 10
    ).tolist()

    def fn(x: Any, y: Any) -> Any:
        picks = iter(choices)
        values = [x, y * 1.0]

        def pick(items: list[Any]) -> Any:
            return items[next(picks) % len(items)]

        for kind in kinds:
            t = pick(values)
            if kind == "unary":
                values.append(pick(UNARY)(t))
            elif kind == "binary":
                same = [v for v in values if tuple(v.shape) == tuple(t.shape)]
                values.append(t * pick(same))
            elif kind == "view":
                if t.dim() == 2 and t.shape[0] >= 3 and t.shape[1] >= 3:
                    values.append(pick(VIEWS)(t))
            elif kind == "write":
                pick(WRITES)(t, pick(values)[:1, :1].detach().clone())
            else:
                with plait.no_grad():
                    pick(WRITES)(t, pick(values)[:1, :1].detach().clone())
        return tuple(values[2:]) or (x * 1.0,)

    def inputs(rows: int) -> tuple[Any, ...]:
        data = np.random.default_rng(seed + 1)
        made = [plait.tensor(data.standard_normal((ROWS, COLUMNS)).astype("f")) for _ in range(2)]
        made[1].requires_grad_(True)
        return tuple(made)

    return Program(f"random_{seed}", fn, inputs, tolerance=1e-4)


def check(seed: int, backend: str) -> None:
    p = random_program(seed)
    try:
        p.fn(*p.inputs(ROWS))
    except plait.PlaitError as error:
        with pytest.raises(type(error)):
            plait.compile(p.fn, backend=backend)(*p.inputs(ROWS))
        return
    try:
        check_program(p, plait.compile(p.fn, backend=backend), ROWS)
    except plait.PlaitError as error:
        # The same gradient is refused eagerly (a saved tensor was written).
        outputs = p.fn(*p.inputs(ROWS))
        with pytest.raises(type(error)):
            sum(o.sum() for o in outputs if o.requires_grad).backward()


@pytest.mark.parametrize("seed", range(150))
def test_aot(seed: int) -> None:
    check(seed, "aot_eager")


@pytest.mark.parametrize("seed", range(150, 190))
def test_native(seed: int) -> None:
    check(seed, "llvm")


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(1000, 4000))
def test_many(seed: int) -> None:
    check(seed, "aot_eager")
