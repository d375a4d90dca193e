"""The door through which operators come in: adapters, fitting, checks of rules."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.base.errors import DtypeMismatch, MissingKernel, RegistrationError
from plait.dispatch import dispatcher
from plait.ops.arrays import checked_scalar, empty_array, fit
from plait.ops.define import define, elementwise_meta, view
from plait.tensor.layout import TensorMeta, permute
from plait.testing.samples import transposed


@pytest.fixture
def defined():
    """Defines operators that are gone after the test."""
    made = []

    def make(*args, **kwargs):
        made.append(define(*args, **kwargs))
        return made[-1]

    yield make
    for op in made:
        for variant in (op, op.inplace, op.out):
            if variant is not None:
                dispatcher.remove(variant)


def test_a_kernel_over_arrays_becomes_an_operator(defined):
    op = defined(
        "test::twice(Tensor self) -> Tensor",
        shape=lambda self: elementwise_meta("twice", [self], self.dtype),
        kernel=lambda self: self * 2,
    )
    assert op(plait.tensor([1.0, 2.0])).tolist() == [2.0, 4.0]
    assert op(plait.tensor(1.0)).shape == ()


def test_results_get_the_strides_and_dtype_of_the_shape_rule(defined):
    op = defined(
        "test::sloppy(Tensor self) -> Tensor",
        shape=lambda self: TensorMeta(self.shape, self.dtype),
        kernel=lambda self: self.astype(np.float64) + 1,  # wrong order, wrong dtype
    )
    out = op(transposed(3, 4))
    assert out.strides == (4, 1)
    assert out.dtype is plait.float32


def test_a_kernel_may_ask_for_the_meta(defined):
    seen = []

    def kernel(self, meta):
        seen.append(meta)
        return empty_array(meta)

    op = defined(
        "test::asks(Tensor self) -> Tensor",
        shape=lambda self: TensorMeta(self.shape, plait.int32),
        kernel=kernel,
    )
    assert op(plait.zeros(2)).dtype is plait.int32
    assert seen == [TensorMeta((2,), plait.int32)]


def test_lists_keywords_and_several_results(defined):
    op = defined(
        "test::many(Tensor[] parts, Tensor? extra=None, *, Tensor scale) -> (Tensor, Tensor)",
        shape=lambda parts, extra=None, *, scale: (
            TensorMeta(parts[0].shape, plait.float32),
            TensorMeta((), plait.int64),
        ),
        kernel=lambda parts, extra, *, scale: (sum(parts) * scale, np.asarray(len(parts))),
    )
    total, count = op([plait.ones(2), plait.ones(2)], scale=plait.tensor(3.0))
    assert total.tolist() == [6.0, 6.0]
    assert count.item() == 2


def test_kernels_run_without_floating_point_warnings(defined):
    op = defined(
        "test::invert(Tensor self) -> Tensor",
        shape=lambda self: elementwise_meta("invert", [self], self.dtype),
        kernel=lambda self: 1 / self,
    )
    assert op(plait.tensor([0.0])).tolist() == [float("inf")]
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        np.ones(1) / np.zeros(1)  # the state outside is untouched


def test_operands_of_other_dtypes_are_refused(defined):
    op = defined(
        "test::real(Tensor self) -> Tensor",
        shape=lambda self: TensorMeta(self.shape, self.dtype),
        kernel=lambda self: self,
        dtypes=[plait.float32],
    )
    with pytest.raises(MissingKernel, match=r"real: not implemented for plait\.int64"):
        op(plait.tensor([1]))


def test_a_derivative_must_belong_to_a_tensor_argument():
    with pytest.raises(RegistrationError, match="derivatives are given for"):
        define("test::wrong(Tensor self) -> Tensor", vjp={"other": lambda g: g})
    dispatcher.remove(dispatcher.lookup("test::wrong"))


def test_views_share_memory():
    op = view("test::turned(Tensor(a) self) -> Tensor(a)", layout=lambda x: permute(x, (1, 0)))
    try:
        x = plait.zeros(2, 3)
        out = op(x)
        assert out.shape == (3, 2) and out.strides == (1, 3)
        out.fill_(1)
        assert x.tolist() == [[1.0] * 3] * 2
        assert op.shape_rule(x) == out.meta
    finally:
        dispatcher.remove(op)


def test_fit_leaves_what_fits():
    array = np.ones((2, 3), np.float32)
    assert fit(array, TensorMeta((2, 3), plait.float32)) is array
    other = fit(array, TensorMeta((2, 3), plait.float32, strides=(1, 2)))
    assert other.strides == (4, 8)
    np.testing.assert_array_equal(other, array)


@pytest.mark.parametrize(
    ("value", "dtype", "stored"),
    [
        (1.7, plait.int32, 1),
        (-1, plait.uint8, 255),
        (255, plait.uint8, 255),
        (float("inf"), plait.float32, float("inf")),
        (2, plait.bool_, True),
        (-(2**63), plait.int64, -(2**63)),
    ],
)
def test_numbers_that_fit(value, dtype, stored):
    assert checked_scalar("fill", value, dtype).item() == stored


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (300, plait.uint8),
        (-300, plait.uint8),
        (-200, plait.int8),
        (float("nan"), plait.int32),
        (1e300, plait.float32),
        (1j, plait.float32),
        (2**70, plait.int64),
    ],
)
def test_numbers_that_do_not_fit(value, dtype):
    with pytest.raises(DtypeMismatch, match="without overflow"):
        checked_scalar("fill", value, dtype)
