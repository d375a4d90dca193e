"""Reductions and extrema against PyTorch and against their own rules."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import plait
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples
from plait.testing.samples.inputs import of

OPERATORS = [
    "aten::sum", "aten::sum.dim_IntList", "aten::mean", "aten::mean.dim", "aten::prod",
    "aten::prod.dim_int", "aten::amax", "aten::amin", "aten::max", "aten::min", "aten::max.dim",
    "aten::min.dim", "aten::argmax", "aten::argmin", "aten::any", "aten::any.dim",
    "aten::any.dims", "aten::all", "aten::all.dim", "aten::all.dims", "aten::var.correction",
    "aten::logsumexp", "aten::cumsum",
]  # fmt: skip
CALLS = [
    pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
    for name in OPERATORS
    for sample in samples(name)
]
# PyTorch refuses to record a floating argument with an integral result.
FOLLOWED = [c for c in CALLS if c.values[1].kwargs.get("dtype") is not plait.int32]


@pytest.mark.parametrize(("name", "sample"), CALLS)
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample)
    compare.check_shape_rule(name, sample)


@pytest.mark.parametrize(("name", "sample"), FOLLOWED)
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"),
    [c for c in CALLS if c.values[1].name in ("contiguous", "contiguous dim 1", "ties")],
)
def test_second_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_second_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), [c for c in CALLS if lookup(c.values[0]).decomposition is not None]
)
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), [c for c in CALLS if lookup(c.values[0]).out is not None]
)
def test_out(name: str, sample: SampleInput) -> None:
    compare.check_out(name, sample)


# fmt: off
REFUSED = [
    ("aten::sum.dim_IntList", SampleInput(make(2, 3), (2,), name="dim too large")),
    ("aten::sum.dim_IntList", SampleInput(make(2, 3), (-3,), name="dim too small")),
    ("aten::sum.dim_IntList", SampleInput(make(2, 3), (0, -2), name="dim twice")),
    ("aten::mean", SampleInput(make(2, dtype=plait.int64), name="ints")),
    ("aten::mean.dim", SampleInput(make(2), (0,), dtype=plait.int32, name="dtype int")),
    ("aten::amax", SampleInput(make(0), name="empty")),
    ("aten::amax", SampleInput(make(0, 3), (0,), name="empty dim")),
    ("aten::amin", SampleInput(make(2, 3), (1, 1), name="dim twice")),
    ("aten::max", SampleInput(make(0), name="empty")),
    ("aten::max.dim", SampleInput(make(0, 3), 0, name="empty dim")),
    ("aten::min.dim", SampleInput(make(2, 3), 2, name="dim")),
    ("aten::argmax", SampleInput(make(0), name="empty")),
    ("aten::argmax", SampleInput(make(0, 3), 0, name="empty dim")),
    ("aten::argmin", SampleInput(make(2, dtype=plait.bool_), name="bool")),
    ("aten::any.dim", SampleInput(make(2), 1, name="dim")),
    ("aten::var.correction", SampleInput(make(2, dtype=plait.int64), name="ints")),
    ("aten::cumsum", SampleInput(make(2), 1, name="dim")),
    ("aten::prod.dim_int", SampleInput(make(), 1, name="0-d")),
    ("aten::logsumexp", SampleInput(make(2), (1,), name="dim")),
]
# fmt: on


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_refused(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_messages_name_operator_and_argument(name: str, sample: SampleInput) -> None:
    op = lookup(name)
    with pytest.raises(PlaitError, match=rf"{op.name}: .*(argument '|arguments ')"):
        op(*sample.args, **sample.kwargs)


def test_nan_is_the_extremum_and_its_first_position_counts() -> None:
    x = of([1.0, float("nan"), 3.0, float("nan")])
    assert np.isnan(aten.amax.default(x).item())
    assert np.isnan(aten.amin.default(x).item())
    assert aten.argmax.default(x).item() == aten.argmin.default(x).item() == 1


def test_ties_share_the_gradient_of_an_extremum() -> None:
    x = of([[1.0, 3.0, 3.0]]).requires_grad_()
    aten.sum.default(aten.amax.default(x, (1,))).backward()
    assert x.grad.tolist() == [[0.0, 0.5, 0.5]]


def test_a_long_sum_of_columns_keeps_its_digits() -> None:
    x = np.full((100_000, 2), 0.1, np.float32)
    total = aten.sum.dim_IntList(plait.from_numpy(x), (0,)).numpy()
    np.testing.assert_allclose(total, x.astype(np.float64).sum(0), rtol=1e-6)
