"""Stride arithmetic on SymInts: the same answers as on ints, and no guard that is not needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.base.errors import ShapeMismatch
from plait.symbolic.expr import symbol
from plait.symbolic.symint import SymInt
from plait.tensor import dtype as dt
from plait.tensor import layout as lay
from plait.tensor.layout import Layout, TensorMeta
from plait.tensor.tensor import make_fake, wrap_view


class Env:
    """Symbols of size 2 at least; keeps the guards that were asked for."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.guards: list[str] = []

    def evaluate(self, condition: Any) -> bool:
        self.guards.append(str(condition))
        return bool(condition.evaluate(self.values))

    def specialize(self, expression: Any) -> int:
        self.guards.append(f"{expression} pinned")
        return int(expression.evaluate(self.values))

    def hint(self, expression: Any) -> int:
        return int(expression.evaluate(self.values))

    def size(self, value: int) -> SymInt:
        name = f"s{len(self.values)}"
        self.values[name] = value
        return SymInt(symbol(name, lower=2), self)

    def number(self, value: Any) -> int:
        return self.hint(value.expr) if isinstance(value, SymInt) else value

    def plain(self, layout: Layout) -> Layout:
        shape, strides = (tuple(map(self.number, part)) for part in (layout.shape, layout.strides))
        return Layout(shape, strides, self.number(layout.offset))


@pytest.fixture
def env() -> Env:
    return Env()


def test_everyday_moves_need_no_guard(env: Env) -> None:
    batch, length = env.size(8), env.size(5)
    layout = Layout((batch, length, 4, 16))
    assert layout.is_contiguous() and not lay.is_channels_last(layout.shape, layout.strides)
    moved = lay.transpose(layout, 1, 2)
    lay.unsqueeze(lay.select(moved, -1, 3), 0)
    lay.squeeze(layout)
    lay.expand(Layout((batch, 1, 16)), (batch, length, 16))
    assert env.guards == []


def test_flattening_and_splitting_need_no_guard(env: Env) -> None:
    batch, length = env.size(8), env.size(5)
    layout = Layout((batch, length, 64))
    flat = lay.view(layout, lay.infer_size((-1, 64), layout.numel()))
    assert flat == Layout((batch * length, 64))
    heads = lay.view(layout, lay.infer_size((batch, length, 4, 16), layout.numel()))
    assert heads == Layout((batch, length, 4, 16))
    assert lay.view(lay.transpose(heads, 1, 2), (batch, 4, length * 16)) is None
    assert env.guards == []


def test_pointwise_results_need_no_guard(env: Env) -> None:
    batch, length = env.size(8), env.size(5)
    shape = lay.broadcast_shapes((batch, length, 3), (3,), (length, 1))
    assert shape == (batch, length, 3)
    operands = [(shape, lay.contiguous_strides(shape)), ((3,), (1,))]
    assert lay.elementwise_strides(shape, operands) == lay.contiguous_strides(shape)
    assert env.guards == []


def test_what_must_be_known_is_guarded(env: Env) -> None:
    a, b = env.size(4), env.size(4)
    assert lay.broadcast_shapes((a,), (b,)) == (a,)
    assert len(env.guards) == 1
    with pytest.raises(ShapeMismatch, match="s0"):
        lay.broadcast_shapes((a,), (3,))


def test_fakes_of_symbolic_sizes(env: Env) -> None:
    batch = env.size(4)
    fake = make_fake(TensorMeta((batch, 3), dt.float32))
    assert fake.storage.nbytes == batch * 12 and fake.numel() == batch * 3
    assert fake.is_contiguous() and env.guards == []
    row = wrap_view(fake, lay.select(fake.layout, 1, 2))
    assert (row.shape, row.strides, row.storage_offset()) == ((batch,), (3,), 2)
    assert repr(fake) == "tensor(..., size=(s0, 3))"


# Any of the moves, applied to ints and to SymInts, must agree (or fail alike).
@given(st.data())
def test_moves_agree_with_ints(data: Any) -> None:
    env = Env()
    values = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    symbolic = tuple(
        env.size(value) if value > 1 and data.draw(st.booleans()) else value for value in values
    )
    ours, plain = Layout(symbolic), Layout(tuple(values))
    for _ in range(data.draw(st.integers(1, 3))):
        ours, plain = move(data, ours, plain)
        assert env.plain(ours) == plain
    pairs = [(layout.shape, layout.strides) for layout in (ours, plain)]
    for rule in (lay.is_contiguous, lay.is_dense, lay.is_channels_last):
        assert rule(*pairs[0]) == rule(*pairs[1])
    kept = lay.preserved_strides(*pairs[0])
    assert tuple(map(env.number, kept)) == lay.preserved_strides(*pairs[1])
    pointwise = lay.elementwise_strides(ours.shape, [pairs[0], ((1,), (1,))])
    expected = lay.elementwise_strides(plain.shape, [pairs[1], ((1,), (1,))])
    assert tuple(map(env.number, pointwise)) == expected
    assert env.number(lay.extent(*pairs[0])) == lay.extent(*pairs[1])


def move(data: Any, ours: Layout, plain: Layout) -> tuple[Layout, Layout]:
    """One random move of both layouts."""
    ndim = plain.ndim
    dims = st.integers(0, max(ndim - 1, 0))
    kind = data.draw(st.sampled_from(["permute", "slice", "select", "unsqueeze", "flatten"]))
    if kind == "unsqueeze" or ndim == 0:
        dim = data.draw(st.integers(0, ndim))
        return lay.unsqueeze(ours, dim), lay.unsqueeze(plain, dim)
    dim = data.draw(dims)
    if kind == "permute":
        order = data.draw(st.permutations(range(ndim)))
        return lay.permute(ours, order), lay.permute(plain, order)
    if kind == "select" and plain.shape[dim] > 0:
        index = data.draw(st.integers(0, int(plain.shape[dim]) - 1))
        return lay.select(ours, dim, index), lay.select(plain, dim, index)
    if kind == "slice":
        bounds = data.draw(st.integers(-6, 6)), data.draw(st.integers(-6, 6))
        step = data.draw(st.integers(1, 2))
        return lay.slice_(ours, dim, *bounds, step), lay.slice_(plain, dim, *bounds, step)
    flat = lay.view(ours, (ours.numel(),))
    expected = lay.view(plain, (plain.numel(),))
    assert (flat is None) == (expected is None)
    return (ours, plain) if flat is None or expected is None else (flat, expected)
