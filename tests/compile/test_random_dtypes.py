"""Random programs in half precision, complex numbers and small integers: native code is eager.

Like `test_random_programs`, with reductions, products, conversions and choices too. Values stay
below about 8, so that differences in rounding are a few units in the last place: eager code rounds
halves after every operator, native code where it stores. Integers wrap, and agree exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import plait
from plait.autograd.functional import grad
from plait.base import log
from plait.tensor.dtype import DType
from plait.testing import compare

SIDE, STEPS = 4, 12
TYPES = (plait.bfloat16, plait.float16, plait.complex64, plait.int8)
# Units in the last place of 1, for values and for gradients.
EPS = {plait.bfloat16: 2.0**-8, plait.float16: 2.0**-11, plait.complex64: 2.0**-23, plait.int8: 0.0}
ULPS = 24

Step = Callable[..., Any]


def _mean(t: Any, dim: int) -> Any:
    return t.mean(dim, keepdim=True).expand(tuple(t.shape))


FLOATING: dict[str, list[Step]] = {
    "unary": [
        lambda t: t * 0.5,
        lambda t: t.sin(),
        lambda t: t.tanh(),
        lambda t: plait.relu(t) - 0.5,
        lambda t: t.to(plait.float32).sigmoid().to(t.dtype),
        lambda t: plait.softmax(t, -1),
        lambda t: _mean(t, 0),
        lambda t: t - _mean(t, 1),
        lambda t: t.cumsum(0) * 0.25,
        lambda t: t.amax(1, keepdim=True).expand(tuple(t.shape)),
    ],
    "binary": [
        lambda t, s: (t + s) * 0.5,
        lambda t, s: t.tanh() * s,
        lambda t, s: plait.maximum(t, s),
        lambda t, s: t / (s * s + 1.0),
    ],
    "product": [lambda t, s: (t @ s) * 0.125],
}
COMPLEX: dict[str, list[Step]] = {
    "unary": [
        lambda t: t * (0.5 - 0.25j),
        lambda t: t.conj(),
        lambda t: t / (t.abs() + 1.0),
        lambda t: (t / (t.abs() + 1.0)).exp(),
        lambda t: plait.complex(t.imag, t.real),
        lambda t: t.to(plait.complex128).mul(0.5).to(t.dtype),
        lambda t: _mean(t, 0),
        lambda t: t - _mean(t, 1),
        lambda t: t.cumsum(0) * 0.25,
        lambda t: (t / (t.abs() + 1.0)).prod(1, keepdim=True).expand(tuple(t.shape)),
    ],
    "binary": [
        lambda t, s: (t + s) * 0.5,
        lambda t, s: t / (s.abs() + 1.0) * s.conj(),
        lambda t, s: t / (s * s.conj() + 1.0),
    ],
    "product": [lambda t, s: (t @ s.conj()) * 0.125],
}
INTEGERS: dict[str, list[Step]] = {
    "unary": [
        lambda t: -t,
        lambda t: t.abs(),
        lambda t: ~t,
        lambda t: t * 3 + 100,
        lambda t: t.clamp(-20, 20),
        lambda t: t // 3 + t % -7,
        lambda t: (t << 3) >> 2,
        lambda t: t.to(plait.int32).mul(77).to(t.dtype),
        lambda t: (t.to(plait.float32) * 0.37).to(t.dtype),
        lambda t: t.sum(0, keepdim=True).to(t.dtype).expand(tuple(t.shape)),
        lambda t: t.cumsum(1, dtype=t.dtype),
        lambda t: t.prod(1, keepdim=True, dtype=t.dtype).expand(tuple(t.shape)),
    ],
    "binary": [
        lambda t, s: t + s,
        lambda t, s: t * s,
        lambda t, s: t - s,
        lambda t, s: plait.minimum(t, s),
        lambda t, s: t << s,
        lambda t, s: (t & s) | (t ^ 5),
        lambda t, s: plait.where(t > s, t, -s),
    ],
    "product": [lambda t, s: t @ s],
}
STEPS_OF = {plait.complex64: COMPLEX, plait.int8: INTEGERS}
VIEWS: list[Step] = [
    lambda t: t.t(),
    lambda t: t.permute(1, 0)[::1],
    lambda t: t.view(-1)[: SIDE * SIDE].view(SIDE, SIDE) if t.is_contiguous() else t,
    lambda t: t[1:2].expand(SIDE, SIDE),
    lambda t: plait.cat([t[2:], t[:2]], 0),
    lambda t: t.diagonal().unsqueeze(1).expand(SIDE, SIDE),
]
WRITES: list[Step] = [
    lambda t, s: t.mul_(s),
    lambda t, s: t[1:3].copy_(s[0:2]),
    lambda t, s: t[:, 1].zero_(),
    lambda t, s: t.t()[0].add_(1),
]


class RandomProgram:
    """About a dozen steps on matrices of one element type; its choices are fixed before it runs."""

    def __init__(self, seed: int, dtype: DType) -> None:
        rng = np.random.default_rng(seed)
        self.dtype, self.seed = dtype, seed
        self.choices = rng.integers(0, 1_000_000, 64).tolist()
        kinds = ["unary", "unary", "binary", "binary", "view", "write", "where", "product"]
        self.kinds = rng.choice(kinds, STEPS).tolist()

    def __call__(self, x: Any, y: Any, mask: Any) -> Any:
        picks = iter(self.choices)
        table = STEPS_OF.get(self.dtype, FLOATING)
        values = [x * 1, y * 1]

        def pick(items: list[Any]) -> Any:
            return items[next(picks) % len(items)]

        for kind in self.kinds:
            t, s = pick(values), pick(values)
            if kind == "view":
                values.append(pick(VIEWS)(t))
            elif kind == "write":
                own = t.clone()
                pick(WRITES)(own, s.tanh() if self.dtype.is_floating else s)
                values.append(own)
            elif kind == "where":
                values.append(plait.where(mask, t, s))
            else:
                values.append(pick(table[kind])(*((t,) if kind == "unary" else (t, s))))
        return tuple(values[2:])

    def inputs(self) -> list[Any]:
        """Two matrices, one of them turned, and a mask."""
        rng = np.random.default_rng(self.seed + 1)
        found = []
        for turned in (False, True):
            data = rng.standard_normal((SIDE, SIDE))
            if self.dtype.is_complex:
                data = data + 1j * rng.standard_normal((SIDE, SIDE))
            elif self.dtype.is_integral:
                data = rng.integers(-128, 128, (SIDE, SIDE))
            array = data.astype(self.dtype.numpy)
            found.append(plait.from_numpy(array.T if turned else array))
        return [*found, plait.from_numpy(rng.random((SIDE, SIDE)) < 0.5)]


def _wide(tensor: Any) -> Any:
    array = tensor.detach().numpy(force=True)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _check_close(got: Any, wanted: Any, dtype: DType, label: str, ulps: float) -> None:
    assert got.dtype is wanted.dtype and got.shape == wanted.shape, label
    ours, own = _wide(got), _wide(wanted)
    scale = max(1.0, float(np.abs(own).max(initial=0.0)))
    worst = float(np.abs(ours - own).max(initial=0.0))
    assert worst <= ulps * EPS[dtype] * scale, f"{label}: off by {worst} at size {scale}"


def _gradients(fn: Callable[..., Any], inputs: list[Any]) -> list[Any]:
    x, y, mask = inputs
    leaves = [t.detach().requires_grad_() for t in (x, y)]
    outs = [out for out in fn(*leaves, mask) if out.requires_grad]
    return list(grad(outs, leaves, [compare._cotangent(o) for o in outs], allow_unused=True))


def check(seed: int, dtype: DType) -> None:
    fn = RandomProgram(seed, dtype)
    label = f"seed {seed}, {dtype.name}"
    wanted = fn(*fn.inputs())
    log.clear()
    compiled = plait.compile(lambda x, y, mask: fn(x, y, mask))
    for number, (ours, own) in enumerate(zip(compiled(*fn.inputs()), wanted, strict=True)):
        _check_close(ours, own, dtype, f"{label}: value {number} of {fn.kinds}", ULPS)
    if dtype.category > 1:
        got, expected = _gradients(compiled, fn.inputs()), _gradients(fn, fn.inputs())
        for ours, own in zip(got, expected, strict=True):
            assert (ours is None) == (own is None), label
            if own is not None:
                _check_close(ours, own, dtype, f"{label}: gradient", 8 * ULPS)
    assert [e.reason for e in log.events("fallback")] == [], label


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: d.name)
def test_native_code_is_eager(dtype: DType, seed: int) -> None:
    check(seed, dtype)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(100, 400))
@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: d.name)
def test_many(dtype: DType, seed: int) -> None:
    check(seed, dtype)
