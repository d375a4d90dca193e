"""Triangles, repetitions, shifts and outer products against PyTorch and against their own rules."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import plait
from plait.base.errors import PlaitError
from plait.dispatch.dispatcher import lookup
from plait.testing import compare
from plait.testing.samples import SampleInput, make, sampled, samples
from plait.testing.samples.inputs import of

TRIANGLES = ["aten::tril", "aten::triu"]
ALL = sampled("rearrange")


def calls(*names: str) -> list[object]:
    return [
        pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
        for name in names
        for sample in samples(name)
    ]


@pytest.mark.parametrize(("name", "sample"), calls(*ALL))
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample, strides=name in TRIANGLES)


@pytest.mark.parametrize(("name", "sample"), calls(*TRIANGLES))
def test_rules(name: str, sample: SampleInput) -> None:
    compare.check_shape_rule(name, sample)
    compare.check_decomposition(name, sample)
    compare.check_inplace(name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(*ALL))
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    if sample.name == "special" or "bfloat16" in sample.name:
        pytest.skip("compared forwards only")
    compare.check_gradients_against_torch(torch, name, sample)


REFUSED = [
    ("aten::tril", SampleInput(make(3), name="vector")),
    ("aten::triu", SampleInput(make(), name="0-d")),
    ("aten::repeat", SampleInput(make(2, 3), (2,), name="few")),
    ("aten::repeat", SampleInput(make(2), (-1,), name="negative")),
    ("aten::repeat_interleave.self_int", SampleInput(make(2), -1, 0, name="negative")),
    ("aten::repeat_interleave.self_int", SampleInput(make(2), 1, 1, name="dim")),
    ("aten::roll", SampleInput(make(2, 2), (1, 2), (0,), name="unequal")),
    ("aten::roll", SampleInput(make(2), (1,), (1,), name="dim")),
    ("aten::outer", SampleInput(make(2, 2), make(2), name="matrix")),
    ("aten::masked_fill.Tensor",
     SampleInput(make(2), make(2, dtype=plait.bool_), make(1), name="value")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_refused(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, name, sample)
    with pytest.raises(PlaitError, match=r"^\w+: "):
        lookup(name)(*sample.args)


def test_repeating_once_copies() -> None:
    x = plait.ones(2)
    y = x.repeat((1,))
    y += 1
    assert x.tolist() == [1.0, 1.0]


def test_a_filling_tensor_has_a_gradient() -> None:
    value = of(2.0).requires_grad_()
    mask = plait.tensor([True, False, True])
    plait.zeros(3).masked_fill(mask, value).sum().backward()
    assert value.grad is not None
    np.testing.assert_equal(value.grad.numpy(), 2.0)
