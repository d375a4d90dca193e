"""Random programs with views and in-place writes: plait and PyTorch agree on every step.

Both run the same list of steps; where one raises, the other must raise at the same step.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import plait

Step = tuple[str, int, int, int]  # what, which tensor, which other tensor, a number

VIEWS = ("flat", "row", "column", "transpose", "slice", "unsqueeze")
WRITES = ("mul_", "add_", "zero_", "copy_", "scale_")
READS = ("mul", "exp", "scale", "detach", "split")


def program(seed: int) -> list[Step]:
    rng = np.random.default_rng(seed)
    names = VIEWS + WRITES + READS
    weights = np.array([1.0] * len(VIEWS) + [1.5] * len(WRITES) + [1.0] * len(READS))
    chosen = rng.choice(names, size=10, p=weights / weights.sum())
    return [(str(n), *map(int, rng.integers(0, 100, 3))) for n in chosen]


def view(t: Any, name: str, k: int) -> Any:
    if name == "flat":
        return t.view(-1)
    if name == "row":
        return t.select(0, k % t.shape[0])
    if name == "column":
        return t.select(t.ndim - 1, k % t.shape[-1])
    if name == "transpose":
        return t.transpose(0, t.ndim - 1)
    if name == "slice":
        return t[k % t.shape[0] :]
    return t.unsqueeze(k % (t.ndim + 1))


def reduced(t: Any, like: Any) -> Any:
    """``t`` as a scalar or as it is, so that it broadcasts to ``like``."""
    return t if tuple(t.shape) == tuple(like.shape) else t.sum()


def run_step(m: Any, pool: list[Any], step: Step) -> Any:
    name, i, j, k = step
    t, other = pool[i % len(pool)], pool[j % len(pool)]
    if t.ndim == 0 and name in VIEWS + ("split",):
        return t * 1.0
    if name in WRITES:
        t.grad_fn  # PyTorch takes a view whose base became followed for a leaf until this is read
    if name in VIEWS:
        if k % 10 == 0:
            with m.no_grad():
                return view(t, name, k)
        return view(t, name, k)
    if name == "split":
        return t.unbind(0)[k % t.shape[0]]
    if name in ("mul_", "add_", "copy_"):
        value = reduced(other * 1.0, t) * 0.5
        if k % 7 == 0:
            with m.no_grad():
                return getattr(t, name)(value)
        return getattr(t, name)(value)
    if name == "zero_":
        return t.zero_()
    if name == "scale_":
        return t.mul_(0.5)
    if name == "mul":
        return t * reduced(other, t)
    if name == "exp":
        return (t * 0.1).exp()
    if name == "scale":
        return t * 1.5
    return t.detach()


def values(t: Any) -> Any:
    return None if t is None else np.asarray(t.detach().tolist())


def run(m: Any, steps: list[Step]) -> list[Any]:
    """After each step: value, flags and version of its result; in the end the leaves' gradients."""
    data = (np.arange(6.0).reshape(2, 3) / 6 + 0.5).tolist()
    x, w = (m.tensor(data, requires_grad=True) for _ in range(2))
    pool = [x * 1.0, w * 2.0, m.tensor(data)]
    trace: list[Any] = []
    try:
        for step in steps:
            out = run_step(m, pool, step)
            trace += [values(out), out.requires_grad, out._version]
            pool.append(out)
        loss = sum(((t * t).sum() * (n + 1.0) for n, t in enumerate(pool)), m.tensor(0.0))
        if loss.requires_grad:
            loss.backward()
    except RuntimeError as error:
        return [*trace, "error", "inplace" in str(error) or "in-place" in str(error)]
    return [*trace, values(x.grad), values(w.grad)]


@pytest.mark.parametrize("seed", range(150))
def test_same_as_pytorch(seed: int, torch: ModuleType) -> None:
    steps = program(seed)
    ours, theirs = run(plait, steps), run(torch, steps)
    assert len(ours) == len(theirs), (steps, ours[-2:], theirs[-2:])
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
        else:
            assert a == b, steps
