"""Random graphs of views, maps, reductions and products: plans against eager."""

import numpy as np
import pytest

from plait.ops import aten
from plait.tensor.tensor import Tensor, from_numpy

SIZES = (1, 2, 3, 4, 6)
UNARY = [
    aten.neg.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.relu.default,
    aten.abs.default,
]
BINARY = [aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.maximum.default]


class Walk:
    """Grows a graph at random and evaluates it eagerly alongside."""

    def __init__(self, maker, seed):
        self.maker = maker
        self.rng = np.random.default_rng(seed)
        self.values = []
        for _ in range(self.rng.integers(1, 4)):
            shape = self.rng.choice(SIZES, self.rng.integers(1, 4))
            array = self.rng.standard_normal(shape).astype(np.float32)
            if self.rng.random() < 0.3:
                array = array.T
            self.values.append((maker.input(array), from_numpy(array)))

    def pick(self):
        recent = self.values[-6:] if self.rng.random() < 0.7 else self.values
        return recent[self.rng.integers(len(recent))]

    def step(self):
        kinds = [
            self.unary,
            self.binary,
            self.reduce,
            self.view,
            self.product,
            self.soft,
            self.join,
        ]
        weights = np.array([3, 4, 3, 4, 1, 1, 1])
        kind = self.rng.choice(len(kinds), p=weights / weights.sum())
        call = kinds[kind](*self.pick())
        if call is None:
            return
        op, values, tensors, rest = call
        result = self.maker(op, *values, *rest)
        eager = op(*tensors, *rest)
        if isinstance(eager, Tensor) and eager.numel() <= 4096:
            self.values.append((result, eager))

    def unary(self, v, t):
        return UNARY[self.rng.integers(len(UNARY))], [v], [t], []

    def binary(self, v, t):
        for _ in range(8):
            w, u = self.pick()
            try:
                np.broadcast_shapes(t.shape, u.shape)
            except ValueError:
                continue
            return BINARY[self.rng.integers(len(BINARY))], [v, w], [t, u], []
        return None

    def reduce(self, v, t):
        if not t.ndim:
            return None
        dims = sorted({int(d) for d in self.rng.integers(0, t.ndim, self.rng.integers(1, 3))})
        op = [aten.sum.dim_IntList, aten.mean.dim, aten.amax.default][self.rng.integers(3)]
        return op, [v], [t], [dims, bool(self.rng.integers(2))]

    def view(self, v, t):
        if not t.ndim:
            return aten.unsqueeze.default, [v], [t], [0]
        kind = self.rng.integers(6)
        if kind == 0:
            order = [int(d) for d in self.rng.permutation(t.ndim)]
            return aten.permute.default, [v], [t], [order]
        if kind == 1 and t.is_contiguous():
            return aten.view.default, [v], [t], [[-1]]
        if kind == 2 and t.is_contiguous() and t.shape[-1] % 2 == 0:
            return aten.view.default, [v], [t], [[*t.shape[:-1], 2, t.shape[-1] // 2]]
        if kind == 3 and t.shape[0] > 1:
            return aten.slice.Tensor, [v], [t], [0, 1, t.shape[0], int(self.rng.integers(1, 3))]
        if kind == 4:
            return aten.unsqueeze.default, [v], [t], [int(self.rng.integers(0, t.ndim + 1))]
        if kind == 5 and t.ndim < 4:
            return aten.expand.default, [v], [t], [[2, *t.shape]]
        return aten.select.int, [v], [t], [0, -1]

    def product(self, v, t):
        if t.ndim != 2:
            return None
        return aten.mm.default, [v, self.maker(aten.t.default, v)], [t, aten.t.default(t)], []

    def soft(self, v, t):
        return (
            (aten._softmax.default, [v], [t], [int(self.rng.integers(t.ndim)), False])
            if t.ndim
            else None
        )

    def join(self, v, t):
        if not t.ndim:
            return None
        w = self.maker(aten.tanh.default, v)
        result = self.maker(aten.cat.default, (v, w), 0)
        self.values.append((result, aten.cat.default([t, aten.tanh.default(t)], 0)))
        return None


def check(maker, seed, execute):
    walk = Walk(maker, seed)
    for _ in range(14):
        walk.step()
    count = int(walk.rng.integers(1, 5))
    picked = [walk.values[k] for k in walk.rng.integers(0, len(walk.values), count)]
    picked.append(walk.values[-1])
    _, results = maker.run(*(v for v, _ in picked), execute=execute)
    for got, (value, want) in zip(results, picked, strict=True):
        want = want.numpy()
        assert got.shape == want.shape
        promised = zip(got.strides, value.type.strides, got.shape)
        assert all(s == 4 * t for s, t, n in promised if n > 1)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(120))
def test_interpreted(maker, seed):
    check(maker, seed, "interpret")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 240))
def test_native(maker, seed):
    check(maker, seed, "native")
