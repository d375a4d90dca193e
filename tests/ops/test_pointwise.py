"""Pointwise operators: against PyTorch, against their own shape rules, in place, decomposed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import plait
from plait.dispatch.dispatcher import lookup
from plait.ops.special import erf
from plait.testing import compare
from plait.testing.samples import SampleInput, make, sampled, samples

OWN = sampled("pointwise")


@pytest.mark.parametrize("qualname", OWN)
def test_values_dtypes_and_strides_are_those_of_pytorch(qualname):
    torch = pytest.importorskip("torch")
    # A functional copy keeps even the gaps between elements in PyTorch; ours is dense.
    strides = qualname != "aten::copy"
    for sample in samples(qualname):
        compare.check_against_torch(torch, qualname, sample, strides=strides)


@pytest.mark.parametrize("qualname", OWN)
def test_gradients_are_those_of_pytorch(qualname):
    torch = pytest.importorskip("torch")
    if lookup(qualname).vjp is None or qualname == "aten::copy":
        pytest.skip("not differentiable there")
    for sample in samples(qualname):
        compare.check_gradients_against_torch(torch, qualname, sample)


@pytest.mark.parametrize("qualname", OWN)
def test_second_gradients_are_those_of_pytorch(qualname):
    torch = pytest.importorskip("torch")
    if lookup(qualname).vjp is None or qualname == "aten::copy":
        pytest.skip("not differentiable there")
    finite = [s for s in samples(qualname) if "special" not in s.name]  # 0 * inf differs by formula
    for sample in finite:
        compare.check_second_gradients_against_torch(torch, qualname, sample)


@pytest.mark.parametrize("qualname", OWN)
def test_the_shape_rule_says_what_the_kernel_does(qualname):
    for sample in samples(qualname):
        compare.check_shape_rule(qualname, sample)


@pytest.mark.parametrize("qualname", [q for q in OWN if lookup(q).decomposition])
def test_decompositions_compute_the_same(qualname):
    for sample in samples(qualname):
        compare.check_decomposition(qualname, sample)


@pytest.mark.parametrize("qualname", [q for q in OWN if lookup(q).inplace])
def test_in_place(qualname):
    for sample in samples(qualname):
        compare.check_inplace(qualname, sample)


@pytest.mark.parametrize("qualname", [q for q in OWN if lookup(q).out])
def test_out(qualname):
    for sample in samples(qualname):
        compare.check_out(qualname, sample)


BOOLS = make(3, dtype=plait.bool_)
INTS = make(3, dtype=plait.int32)
FLOATS = make(3)


@pytest.mark.parametrize(
    ("qualname", "sample"),
    [
        ("aten::sub.Tensor", SampleInput(BOOLS, BOOLS)),
        ("aten::sub.Tensor", SampleInput(INTS, BOOLS)),
        ("aten::sub.Scalar", SampleInput(BOOLS, 1)),
        ("aten::rsub.Scalar", SampleInput(BOOLS, 1)),
        ("aten::neg", SampleInput(BOOLS)),
        ("aten::abs", SampleInput(BOOLS)),
        ("aten::relu", SampleInput(BOOLS)),
        ("aten::add.Tensor", SampleInput(INTS, INTS, alpha=1.5)),
        ("aten::add.Tensor", SampleInput(FLOATS, make(4))),
        ("aten::pow.Tensor_Tensor", SampleInput(BOOLS, BOOLS)),
        ("aten::pow.Tensor_Scalar", SampleInput(INTS, -1)),
        ("aten::bitwise_and.Tensor", SampleInput(FLOATS, FLOATS)),
        ("aten::bitwise_not", SampleInput(FLOATS)),
        ("aten::lerp.Scalar", SampleInput(INTS, INTS, 0.5)),
        ("aten::addcdiv", SampleInput(INTS, INTS, INTS)),
        ("aten::gelu", SampleInput(INTS)),
        ("aten::gelu", SampleInput(FLOATS, approximate="x")),
        ("aten::silu", SampleInput(INTS)),
        ("aten::clamp", SampleInput(FLOATS)),
        ("aten::where.self", SampleInput(INTS, FLOATS, FLOATS)),
        ("aten::masked_fill.Scalar", SampleInput(INTS, INTS, 1)),
        ("aten::masked_fill.Scalar", SampleInput(FLOATS, BOOLS, 1e300)),
        ("aten::fill_.Scalar", SampleInput(make(3, dtype=plait.uint8), 300)),
        ("aten::fill_.Scalar", SampleInput(make(3, dtype=plait.int8), -200)),
        ("aten::fill_.Scalar", SampleInput(make(3), 1j)),
        ("aten::add_.Tensor", SampleInput(make(2), make(3, 2))),
        ("aten::add_.Scalar", SampleInput(make(3, dtype=plait.int32), 1.5)),
        ("aten::copy_", SampleInput(make(3), make(2))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_of_pytorch_classes(qualname, sample):
    torch = pytest.importorskip("torch")
    compare.check_error_like_torch(torch, qualname, sample)


def test_numbers_that_do_not_fit_an_integer_tensor_wrap_around_in_arithmetic():
    assert (plait.tensor([1], dtype=plait.uint8) + 300).tolist() == [45]
    assert plait.zeros(2, dtype=plait.uint8).fill_(-1).tolist() == [255, 255]


def test_negative_powers_of_integers():
    base, exponent = plait.tensor([2, 1, -1, -1]), plait.tensor([-1, -1, -3, -2])
    assert plait.pow(base, exponent).tolist() == [0, 1, -1, 1]


def test_equal_operands_share_the_gradient_of_maximum():
    x = plait.tensor([1.0, 2.0], requires_grad=True)
    y = plait.tensor([1.0, 3.0], requires_grad=True)
    plait.maximum(x, y).sum().backward()
    assert x.grad.tolist() == [0.5, 0.0]
    assert y.grad.tolist() == [0.5, 1.0]


def test_half_types_round_once():
    x = make(1000, dtype=plait.float16)
    wide = x.to(plait.float32)
    np.testing.assert_array_equal(plait.gelu(x).numpy(), plait.gelu(wide).to(plait.float16).numpy())
    b = x.to(plait.bfloat16)
    assert (b * b).dtype is plait.bfloat16


# ---------------------------------------------------------------- the error function


def _reference(x):
    return np.array([math.erf(v) for v in np.asarray(x, np.float64).ravel()]).reshape(x.shape)


def test_erf_in_float64_is_within_an_ulp_or_so():
    rng = np.random.default_rng(0)
    small = rng.uniform(-1, 1, 2000) * 10.0 ** rng.uniform(-12, 0, 2000)
    x = np.concatenate([rng.uniform(-7, 7, 20000), small])
    error = np.abs(erf(x) - _reference(x)) / np.spacing(np.abs(_reference(x)))
    assert error.max() <= 2  # the reference itself may be off by one


def test_erf_in_float32_is_within_two_ulps():
    x = np.random.default_rng(0).uniform(-5, 5, 20000).astype(np.float32)
    wanted = _reference(x)
    error = np.abs(erf(x).astype(np.float64) - wanted)
    assert (error / np.spacing(np.abs(wanted).astype(np.float32))).max() < 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_of_special_values_and_shapes(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    np.testing.assert_array_equal(erf(x), np.array([np.nan, 1, -1, 0, -0.0], dtype))
    assert np.signbit(erf(x)[4])
    assert erf(np.zeros((0, 3), dtype)).shape == (0, 3)
    assert erf(np.array(0.5, dtype)).shape == ()
