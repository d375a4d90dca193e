"""Tensors made from nothing: values, dtypes and strides are PyTorch's; errors; symbolic sizes."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import plait
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.symbolic.expr import symbol
from plait.symbolic.symint import SymInt
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import make_fake
from plait.testing import compare
from plait.testing.samples import SampleInput, make, sampled, samples

OPERATORS = sampled("creation")
UNSET = [name for name in OPERATORS if "empty" in name]


def calls(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
        for name in names
        for sample in samples(name)
    ]


@pytest.mark.parametrize(("name", "sample"), calls([n for n in OPERATORS if n not in UNSET]))
def test_values_against_torch(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(UNSET))
def test_form_of_unset_memory_against_torch(
    torch: ModuleType, name: str, sample: SampleInput
) -> None:
    theirs = compare.torch_call(torch, name, sample)
    ours = lookup(name)(*sample.args, **sample.kwargs)
    assert ours.shape == tuple(theirs.shape) and ours.strides == theirs.stride()
    assert str(theirs.dtype).removeprefix("torch.") == ours.dtype.name.removesuffix("_")


@pytest.mark.parametrize(("name", "sample"), calls(OPERATORS))
def test_shape_rule(name: str, sample: SampleInput) -> None:
    compare.check_shape_rule(name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(["aten::linspace"]))
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("aten::zeros", ((2, -1),), {}),
        ("aten::full", ((2,), 300), {"dtype": plait.uint8}),
        ("aten::full", ((2,), math.nan), {"dtype": plait.int64}),
        ("aten::full", ((2,), 1j), {"dtype": plait.float32}),
        ("aten::arange.start_step", (0, 5, 0), {}),
        ("aten::arange.start_step", (0, 5, -1), {}),
        ("aten::arange", (-1,), {}),
        ("aten::arange", (math.inf,), {}),
        ("aten::linspace", (0, 1, -1), {}),
        ("aten::eye", (-1,), {}),
        ("aten::empty_strided", ((2, 3), (1,)), {}),
        ("aten::empty_strided", ((2, 3), (-1, 1)), {}),
    ],
)
def test_errors_are_torchs(
    torch: ModuleType, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    compare.check_error_like_torch(torch, name, SampleInput(*args, **kwargs))


class _Env:
    """Size n is 6; conditions are answered and recorded."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def evaluate(self, condition: Any) -> bool:
        self.asked.append(str(condition))
        return bool(condition.evaluate({"n": 6}))

    def specialize(self, expression: Any) -> int:
        raise AssertionError(f"{expression} was pinned")

    def hint(self, expression: Any) -> int:
        return int(expression.evaluate({"n": 6}))


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("zeros", lambda n: ((n, 2),), "(n, 2)"),
        ("empty", lambda n: ((n + 1,),), "(n + 1,)"),
        ("full", lambda n: ((n,), 1.5), "(n,)"),
        ("eye", lambda n: (n,), "(n, n)"),
        ("arange", lambda n: (n,), "(n,)"),
        ("arange", lambda n: (1, n), "(n - 1,)"),
    ],
)
def test_symbolic_sizes_stay_symbolic(name: str, args: Any, shape: str) -> None:
    n = SymInt(symbol("n", lower=2), _Env())
    given = args(n)
    op = getattr(aten, name).select(given, {})
    normal, options = op.normalize(given, {})
    assert str(op.shape_rule(*normal, **options).shape) == shape


def test_symbolic_sizes_ask_nothing_that_bounds_answer() -> None:
    env = _Env()
    n = SymInt(symbol("n", lower=2), env)
    for name, size in (("zeros", (n, 2)), ("ones", (n,)), ("rand", (n,))):
        op = getattr(aten, name).default
        args, kwargs = op.normalize((size,), {})
        op.shape_rule(*args, **kwargs)
    op = aten.arange.default
    op.shape_rule(n, dtype=None, device=None)
    assert env.asked == []


def test_zeros_like_of_a_fake_with_symbolic_sizes() -> None:
    n = SymInt(symbol("n", lower=2), _Env())
    fake = make_fake(TensorMeta((n, 3), plait.float32))
    op = aten.zeros_like.default
    args, kwargs = op.normalize((fake,), {})
    assert str(op.shape_rule(*args, **kwargs).shape) == "(n, 3)"


def test_functions_take_sizes_both_ways() -> None:
    for function in (plait.zeros, plait.ones, plait.empty):
        assert function(2, 3).shape == function((2, 3)).shape == (2, 3)
        assert function().shape == ()
    assert plait.arange(3).tolist() == [0, 1, 2]
    assert plait.zeros(2, dtype=plait.int8).dtype is plait.int8


def test_default_dtype_is_used() -> None:
    before = plait.get_default_dtype()
    plait.set_default_dtype(plait.float64)
    try:
        made = [plait.zeros(1), plait.full((1,), 1.0), plait.arange(1.0), plait.eye(1)]
        assert {t.dtype for t in made} == {plait.float64}
        assert plait.full((1,), 1).dtype is plait.int64
    finally:
        plait.set_default_dtype(before)


def test_memory_is_not_shared() -> None:
    x = make(2, 3)
    for made in (aten.empty_like.default(x), aten.zeros_like.default(x)):
        assert made.data_ptr() != x.data_ptr()


def test_likes_carry_no_gradient() -> None:
    x = make(2).requires_grad_()
    assert not aten.ones_like.default(x).requires_grad
    assert not aten.new_full.default(x, (2,), 1).requires_grad


def test_linspace_is_symmetric_and_ends_exactly() -> None:
    ramp = plait.linspace(-0.3, 0.3, 11).numpy()
    assert ramp[-1] == np.float32(0.3)
    np.testing.assert_array_equal(ramp, -ramp[::-1])
