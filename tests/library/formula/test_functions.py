"""The table of functions: both meanings agree, types are PyTorch's, derivatives are right."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import plait
from plait.base.errors import PlaitError
from plait.library.formula.derive import derivative
from plait.library.formula.evaluate import make_plan, over_tensors
from plait.library.formula.functions import FUNCTIONS
from plait.library.formula.terms import Term, apply, name, number
from plait.testing.compare import assert_close

DTYPES = [
    plait.bool_, plait.uint8, plait.int32, plait.int64,
    plait.bfloat16, plait.float32, plait.float64,
]  # fmt: skip

# Aten takes tensors of bools here; a formula does not.
_NUMBERS_ONLY = ("clamp", "sign", "square")


def sample(dtype: Any, seed: int) -> plait.Tensor:
    values = np.random.default_rng(seed).integers(1, 4, (2, 3))
    return plait.tensor(values.tolist()).to(dtype)


def term_of(fn: str) -> tuple[Term, list[str]]:
    names = ["x", "y", "z"][: FUNCTIONS[fn].arity]
    return apply(fn, *map(name, names)), names


def run(root: Term, named: dict[str, Any]) -> tuple[Any, Any]:
    """(array of the plan, its dtype)."""
    tensors = {n: t for n, t in named.items() if isinstance(t, plait.Tensor)}
    numbers = {n: v for n, v in named.items() if n not in tensors}
    plan = make_plan(root, {n: (t.dtype, min(t.ndim, 1)) for n, t in tensors.items()}, numbers, "f")
    shape = np.broadcast_shapes(*[tuple(t.shape) for t in tensors.values()])
    with np.errstate(all="ignore"):
        return plan.run([t._array for t in tensors.values()], numbers, shape), plan.dtype


@pytest.mark.parametrize("fn", sorted(FUNCTIONS))
def test_arrays_and_tensors_agree_in_values_and_types(fn: str) -> None:
    root, names = term_of(fn)
    seen = 0
    for dtypes in itertools.product(DTYPES, repeat=min(len(names), 2)):
        tensors = {n: sample(d, i) for i, (n, d) in enumerate(zip(names, (*dtypes, dtypes[-1])))}
        try:
            expected = over_tensors(root, tensors)
        except PlaitError:
            with pytest.raises(PlaitError):
                run(root, tensors)
            continue
        if fn in _NUMBERS_ONLY and all(d is plait.bool_ for d in dtypes):
            with pytest.raises(PlaitError, match="does not take bool operands only"):
                run(root, tensors)
            continue
        found, dtype = run(root, tensors)
        assert dtype is expected.dtype, dtypes
        made = plait.from_numpy(np.asarray(found)).to(dtype)
        assert_close(made, expected)
        seen += 1
    assert seen


@pytest.mark.parametrize("fn", sorted(n for n, f in FUNCTIONS.items() if f.arity > 1))
@pytest.mark.parametrize("value", [2, 0.5])
@pytest.mark.parametrize("dtype", [plait.int64, plait.float32, plait.float64])
def test_numbers_beside_tensors_promote_alike(fn: str, value: Any, dtype: Any) -> None:
    names = ["x", "y", "z"][: FUNCTIONS[fn].arity]
    for place in range(len(names)):
        args = [number(value) if i == place else name(n) for i, n in enumerate(names)]
        root = apply(fn, *args)
        tensors = {n: sample(dtype, i) for i, n in enumerate(names) if i != place}
        expected = over_tensors(root, tensors)
        found, kind = run(root, tensors)
        assert kind is expected.dtype
        assert_close(plait.from_numpy(np.asarray(found)).to(kind), expected)


_PROBES = {
    "pow": ([0.5, 2.0, 3.0], [2.5, -1.5, 0.0]),
    "log": ([0.25, 1.5, 4.0],), "log1p": ([-0.25, 1.5, 4.0],), "sqrt": ([0.25, 1.5, 4.0],),
    "rsqrt": ([0.25, 1.5, 4.0],), "div": ([1.0, -2.0, 3.0], [2.0, 0.5, -4.0]),
    "clamp": ([-2.0, 0.25, 3.0], [-1.0, -0.5, -0.25], [1.0, 0.5, 2.0]),
}  # fmt: skip


@pytest.mark.parametrize("fn", sorted(FUNCTIONS))
def test_derivatives_agree_with_differences(fn: str) -> None:
    root, names = term_of(fn)
    if FUNCTIONS[fn].types([(plait.float64, 1)] * len(names))[1].is_bool:
        assert all(derivative(root, n) is None for n in names)
        return
    plain = ([0.7, -1.3, 2.2], [-0.4, 1.9, 0.3], [1.1, -0.6, 0.9])
    values = _PROBES.get(fn, plain)[: len(names)]
    given = {n: plait.tensor(v, dtype=plait.float64) for n, v in zip(names, values)}
    step = 1e-6
    for n in names:
        up = run(root, given | {n: given[n] + step})[0]
        down = run(root, given | {n: given[n] - step})[0]
        slope = derivative(root, n)
        exact = 0.0 if slope is None else run_any(slope, given)
        np.testing.assert_allclose((up - down) / (2 * step), exact, rtol=1e-6, atol=1e-8)


def run_any(root: Term, named: dict[str, plait.Tensor]) -> Any:
    """The values of a term that need not use all names, or any."""
    used = apply("add", root, apply("mul", number(0.0), name("unused")))
    for n in named:
        used = apply("add", used, apply("mul", number(0.0), name(n)))
    return run(used, {**named, "unused": plait.zeros(3, dtype=plait.float64)})[0]
