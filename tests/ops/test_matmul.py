"""Matrix products against PyTorch and against their own rules."""

from __future__ import annotations

from types import ModuleType

import pytest

import plait
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples

PRODUCTS = ["aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::addmm"]
COMPOSITES = ["aten::matmul", "aten::linear"]


def calls(*names: str) -> list[object]:
    return [
        pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
        for name in names
        for sample in samples(name)
    ]


@pytest.mark.parametrize(("name", "sample"), calls(*PRODUCTS, *COMPOSITES))
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample, family="matmul")


@pytest.mark.parametrize(("name", "sample"), calls(*PRODUCTS))
def test_shape_rule(name: str, sample: SampleInput) -> None:
    compare.check_shape_rule(name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(*PRODUCTS, *COMPOSITES))
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"),
    [c for c in calls(*PRODUCTS, *COMPOSITES) if "transposed" not in c.id and "nan" not in c.id],
)
def test_second_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_second_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), calls("aten::mv", "aten::dot"))
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), [c for c in calls(*PRODUCTS) if lookup(c.values[0]).out is not None]
)
def test_out(name: str, sample: SampleInput) -> None:
    compare.check_out(name, sample)


F64, BOOL = plait.float64, make(2, 2, dtype=plait.bool_)
# fmt: off
REFUSED = [
    ("aten::mm", SampleInput(make(2, 3), make(2, 3), name="inner")),
    ("aten::mm", SampleInput(make(2, 3, 3), make(2, 3), name="rank")),
    ("aten::mm", SampleInput(make(2, 3), make(3, 3, dtype=F64), name="dtypes")),
    ("aten::mm", SampleInput(BOOL, BOOL, name="bool")),
    ("aten::bmm", SampleInput(make(2, 3, 4), make(3, 4, 2), name="batch")),
    ("aten::bmm", SampleInput(make(2, 3, 4), make(2, 5, 2), name="inner")),
    ("aten::bmm", SampleInput(make(3, 4), make(2, 5, 2), name="rank")),
    ("aten::mv", SampleInput(make(3, 4), make(3), name="inner")),
    ("aten::mv", SampleInput(make(4), make(4), name="rank")),
    ("aten::dot", SampleInput(make(4), make(3), name="length")),
    ("aten::dot", SampleInput(make(4), make(4, dtype=F64), name="dtypes")),
    ("aten::dot", SampleInput(make(4, 2), make(4), name="rank")),
    ("aten::addmm", SampleInput(make(2, 5), make(2, 4), make(4, 3), name="self")),
    ("aten::addmm", SampleInput(make(1, 2, 3), make(2, 4), make(4, 3), name="self rank")),
    ("aten::addmm", SampleInput(make(3, dtype=F64), make(2, 4), make(4, 3), name="dtypes")),
    ("aten::matmul", SampleInput(make(), make(4), name="0-d")),
    ("aten::matmul", SampleInput(make(2, 3), make(4, 5), name="inner")),
    ("aten::matmul", SampleInput(make(2, 3, 4), make(3, 4, 5), name="batch")),
    ("aten::matmul", SampleInput(make(2, 3, 4), make(5), name="vector")),
    ("aten::linear", SampleInput(make(2, 4), make(3, 5), name="inner")),
    ("aten::linear", SampleInput(make(2, 4), make(3, 4), make(2), name="bias")),
    ("aten::linear", SampleInput(make(2, 4), make(4), make(), name="vector and bias")),
]
# fmt: on


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_refused(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_messages_name_the_operator(name: str, sample: SampleInput) -> None:
    with pytest.raises(PlaitError, match=rf"^{lookup(name).name}: "):
        lookup(name)(*sample.args, **sample.kwargs)


def test_the_gradient_of_a_weight_lies_in_memory_as_the_weight() -> None:
    x, w = make(5, 4), make(3, 4, seed=1).requires_grad_()
    aten.linear.default(x, w, make(3)).backward(make(5, 3))
    assert w.grad.is_contiguous()


def test_products_of_integers_wrap_around() -> None:
    x = plait.tensor([[100, 100]], dtype=plait.uint8)
    assert aten.mm.default(x, aten.t.default(x)).item() == 20000 % 256
