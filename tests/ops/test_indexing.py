"""Operators with index tensors, against PyTorch and against their own rules."""

from __future__ import annotations

from types import ModuleType

import pytest

import plait
from plait.base.errors import IndexOutOfRange, MissingKernel, PlaitError
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples
from plait.testing.samples.inputs import of

OPERATORS = [
    "aten::index_select", "aten::gather", "aten::scatter.src", "aten::scatter.value",
    "aten::scatter_add", "aten::index_add", "aten::embedding",
]  # fmt: skip
CALLS = [
    pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
    for name in OPERATORS
    for sample in samples(name)
]


@pytest.mark.parametrize(("name", "sample"), CALLS)
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample)
    compare.check_shape_rule(name, sample)


# PyTorch documents scatters with a larger src as without a gradient; ours have one.
TAUGHT = [c for c in CALLS if "larger src" not in c.id]


@pytest.mark.parametrize(("name", "sample"), TAUGHT)
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"),
    [c for c in TAUGHT if "contiguous" in c.id or "twice" in c.id or "padding" in c.id],
)
def test_second_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_second_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), [c for c in CALLS if lookup(c.values[0]).decomposition is not None]
)
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), [c for c in CALLS if lookup(c.values[0]).inplace is not None]
)
def test_inplace(name: str, sample: SampleInput) -> None:
    compare.check_inplace(name, sample)


X, LONG, F64 = make(3, 4), plait.int64, plait.float64
# fmt: off
REFUSED = [
    ("aten::index_select", SampleInput(X, 0, of([-1], LONG), name="negative")),
    ("aten::index_select", SampleInput(X, 0, of([3], LONG), name="too large")),
    ("aten::index_select", SampleInput(X, 2, of([1], LONG), name="dim")),
    ("aten::index_select", SampleInput(X, 0, of([0.0]), name="float index")),
    ("aten::index_select", SampleInput(X, 0, of([[0]], LONG), name="matrix index")),
    ("aten::index_select", SampleInput(make(), 0, of([0, 0], LONG), name="0-d twice")),
    ("aten::gather", SampleInput(X, 1, of([0], LONG), name="rank")),
    ("aten::gather", SampleInput(X, 1, of([[0]] * 4, LONG), name="larger")),
    ("aten::gather", SampleInput(X, 3, of([[0]], LONG), name="dim")),
    ("aten::gather", SampleInput(X, 1, of([[0.0]]), name="float index")),
    ("aten::scatter.src", SampleInput(X, 1, of([[0, 1], [2, 3]], LONG), make(2, 1), name="src")),
    ("aten::scatter.src", SampleInput(X, 1, of([[0]], LONG), make(1, 1, dtype=LONG), name="dtype")),
    ("aten::scatter.src", SampleInput(X, 1, of([[0]] * 4, LONG), make(4, 1), name="larger")),
    ("aten::scatter.value", SampleInput(X, 1, of([0], LONG), 1, name="rank")),
    ("aten::scatter_add", SampleInput(X, 1, of([[0]], LONG), make(1, 1, dtype=LONG), name="dtype")),
    ("aten::index_add", SampleInput(X, 0, of([0], LONG), make(2, 4), name="count")),
    ("aten::index_add", SampleInput(X, 0, of([0], LONG), make(1, 3), name="shape")),
    ("aten::index_add", SampleInput(X, 0, of([0], LONG), make(1, 4, dtype=F64), name="dtype")),
    ("aten::index_add", SampleInput(X, 0, of([[0]], LONG), make(1, 4), name="matrix index")),
    ("aten::embedding", SampleInput(make(4), of([1], LONG), name="rank")),
    ("aten::embedding", SampleInput(X, of([3], LONG), name="too large")),
    ("aten::embedding", SampleInput(X, of([-1], LONG), name="negative")),
    ("aten::embedding", SampleInput(X, of([1.0]), name="float index")),
]
# fmt: on


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_refused(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_messages_name_operator_and_argument(name: str, sample: SampleInput) -> None:
    with pytest.raises(PlaitError, match=rf"^{lookup(name).name}: arguments? '"):
        lookup(name)(*sample.args, **sample.kwargs)


@pytest.mark.parametrize("wrong", [-1, 4])
@pytest.mark.parametrize("name", ["gather", "scatter.src", "scatter_add", "index_add"])
def test_indices_out_of_range_are_named(name: str, wrong: int) -> None:
    # PyTorch raises RuntimeError here and IndexError for the same fault in index_select.
    index = of([wrong] if name == "index_add" else [[wrong]], LONG)
    source = () if name == "gather" else (make(3, 1) if name == "index_add" else make(1, 1),)
    with pytest.raises(IndexOutOfRange, match=rf"'index' .*got {wrong}; expected 0 <= index < 4"):
        lookup(f"aten::{name}")(X, 1, index, *source)


def test_sparse_gradients_of_embeddings_are_refused() -> None:
    with pytest.raises(MissingKernel, match="sparse"):
        aten.embedding.default(X, of([0], LONG), -1, False, True)


def test_a_larger_src_gets_zeros_where_it_was_not_read() -> None:
    src = make(3, 4, seed=1).requires_grad_()
    aten.scatter.src(X, 1, of([[2, 0]], LONG), src).backward(make(3, 4, seed=2))
    assert src.grad.shape == (3, 4)
    grad = src.grad.numpy()
    assert grad[0, :2].all()
    assert not grad[1:].any()
    assert not grad[:, 2:].any()
