"""Normalisations and losses against PyTorch and against their own rules."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import plait
from plait.base.errors import DtypeMismatch, InvalidArgument, PlaitError
from plait.dispatch.dispatcher import lookup
from plait.ops import aten
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples
from plait.testing.samples.inputs import of

OPERATORS = [
    "aten::_softmax", "aten::_log_softmax", "aten::native_layer_norm", "aten::_fused_rms_norm",
    "aten::nll_loss_forward", "aten::mse_loss",
]  # fmt: skip
COMPOSITES = [
    "aten::softmax.int", "aten::log_softmax.int", "aten::layer_norm", "aten::rms_norm",
    "aten::nll_loss_nd", "aten::cross_entropy_loss",
]  # fmt: skip


def calls(*names: str) -> list[object]:
    return [
        pytest.param(name, sample, id=f"{name[6:]}-{sample.name}")
        for name in names
        for sample in samples(name)
    ]


@pytest.mark.parametrize(
    ("name", "sample"),
    # The mean of a row with infinities is NaN for PyTorch, which takes it in another order.
    [c for c in calls(*OPERATORS, *COMPOSITES) if c.id != "native_layer_norm-special"],
)
def test_forward(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_against_torch(torch, name, sample, family="normalize")


@pytest.mark.parametrize(("name", "sample"), calls(*OPERATORS))
def test_shape_rule(name: str, sample: SampleInput) -> None:
    compare.check_shape_rule(name, sample)


@pytest.mark.parametrize(("name", "sample"), calls(*OPERATORS))
def test_decomposition(name: str, sample: SampleInput) -> None:
    compare.check_decomposition(name, sample)


def _followed(*names: str) -> list[object]:
    """The half types round too differently; special values are compared forwards only.

    PyTorch has no gradient for the weight of the classes, and warns about broadcast squares.
    """
    without = ("float16", "special", "no rows", "no columns", "broadcast")
    without += ("weight 0", "weight 1", "weight 2", "one row", "ignored sum", " weight")
    return [c for c in calls(*names) if not any(word in c.id for word in without)]


@pytest.mark.parametrize(("name", "sample"), _followed(*OPERATORS, *COMPOSITES))
def test_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_gradients_against_torch(torch, name, sample)


@pytest.mark.parametrize(
    ("name", "sample"),
    # PyTorch's double backward fails on a bias without a weight.
    [c for c in _followed(*OPERATORS, *COMPOSITES) if c.id != "native_layer_norm-bias"],
)
def test_second_gradients(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_second_gradients_against_torch(torch, name, sample)


LONG, F64 = plait.int64, plait.float64
ROWS, INTS, CLASSES = make(4, 3), make(4, 3, dtype=LONG), of([0, 2, 1, 0], LONG)
NORM, NLL, RMS = "aten::native_layer_norm", "aten::nll_loss_forward", "aten::_fused_rms_norm"
# fmt: off
REFUSED = [
    ("aten::_softmax", SampleInput(make(2, 3), 2, False, name="dim")),
    ("aten::_softmax", SampleInput(make(2, 3, dtype=LONG), 0, False, name="ints")),
    ("aten::_log_softmax", SampleInput(make(2, 3), -3, False, name="dim")),
    ("aten::softmax.int", SampleInput(make(2, 3, dtype=LONG), 0, name="ints")),
    (NORM, SampleInput(ROWS, (2,), None, None, 1e-5, name="shape")),
    (NORM, SampleInput(ROWS, (), None, None, 1e-5, name="no dims")),
    (NORM, SampleInput(ROWS, (3,), make(2), None, 1e-5, name="weight")),
    (NORM, SampleInput(ROWS, (3,), make(3), make(2), 1e-5, name="bias")),
    (NORM, SampleInput(INTS, (3,), None, None, 1e-5, name="ints")),
    (NORM, SampleInput(ROWS, (3,), make(3, dtype=F64), None, 1e-5, name="dtype")),
    ("aten::rms_norm", SampleInput(ROWS, (2,), None, 1e-5, name="shape")),
    ("aten::rms_norm", SampleInput(ROWS, (), None, 1e-5, name="no dims")),
    (RMS, SampleInput(ROWS, (3,), make(2), 1e-5, name="weight")),
    (RMS, SampleInput(INTS, (3,), None, 1e-5, name="ints")),
    (NLL, SampleInput(ROWS, of([0, 3, 0, 0], LONG), None, 1, -100, name="class")),
    (NLL, SampleInput(ROWS, of([0, -1, 0, 0], LONG), None, 1, -100, name="negative")),
    (NLL, SampleInput(ROWS, of([0, 0], LONG), None, 1, -100, name="count")),
    (NLL, SampleInput(ROWS, CLASSES, make(2), 1, -100, name="weight")),
    (NLL, SampleInput(ROWS, CLASSES, make(3, dtype=F64), 1, -100, name="weight dtype")),
    (NLL, SampleInput(ROWS, make(4), None, 1, -100, name="float target")),
    (NLL, SampleInput(ROWS, make(4, 1, dtype=LONG), None, 1, -100, name="target rank")),
    (NLL, SampleInput(INTS, CLASSES, None, 1, -100, name="ints")),
    ("aten::nll_loss_nd", SampleInput(make(), of(0, LONG), None, 0, -100, name="0-d")),
    ("aten::nll_loss_nd", SampleInput(make(2, 3, 5), make(2, 4, dtype=LONG), name="target")),
    ("aten::cross_entropy_loss", SampleInput(ROWS, of([0, 1], LONG), name="batch")),
    ("aten::cross_entropy_loss", SampleInput(ROWS, INTS, name="int probabilities")),
    ("aten::mse_loss", SampleInput(make(3, 4), make(3), 1, name="broadcast")),
    ("aten::mse_loss", SampleInput(make(3, dtype=LONG), make(3, dtype=LONG), 1, name="ints")),
]
# fmt: on


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_refused(torch: ModuleType, name: str, sample: SampleInput) -> None:
    compare.check_error_like_torch(torch, name, sample)


@pytest.mark.parametrize(("name", "sample"), REFUSED, ids=lambda v: getattr(v, "name", v))
def test_messages_name_an_operator(name: str, sample: SampleInput) -> None:
    with pytest.raises(PlaitError, match=r"^\w+: "):
        lookup(name)(*sample.args, **sample.kwargs)


def test_half_to_float_needs_a_half_type() -> None:
    half = make(2, 3, dtype=plait.float16)
    assert aten._softmax.default(half, 1, True).dtype is plait.float32
    with pytest.raises(DtypeMismatch, match="half_to_float"):
        aten._softmax.default(make(2, 3), 1, True)


def test_unknown_reductions_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="reduction"):
        aten.mse_loss.default(make(2), make(2), 5)
    with pytest.raises(InvalidArgument, match="label_smoothing"):
        aten.cross_entropy_loss.default(ROWS, CLASSES, None, 1, -100, 1.5)


def test_dropout_returns_its_input_where_nothing_can_be_dropped() -> None:
    x = make(3, 4)
    assert aten.dropout.default(x, 0.5, False) is x
    assert aten.dropout.default(x, 0.0, True) is x
    with pytest.raises(InvalidArgument, match="'p'"):
        aten.dropout.default(x, 1.5, True)


def test_dropout_scales_what_it_keeps() -> None:
    plait.manual_seed(0)
    x = plait.from_numpy(np.ones((100, 100), np.float32))
    values = np.unique(aten.dropout.default(x, 0.25, True).numpy())
    np.testing.assert_allclose(values, [0.0, 1 / 0.75])


def test_layer_norm_of_special_rows_is_nan_where_the_oracles_is(torch: ModuleType) -> None:
    sample = next(s for s in samples("aten::native_layer_norm") if s.name == "special")
    wanted = compare.torch_call(torch, "aten::native_layer_norm", sample)[0]
    got = aten.native_layer_norm.default(*sample.args)[0]
    compare.assert_close(got, wanted, family="normalize")


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_with_weighted_classes(
    torch: ModuleType, reduction: int, smoothing: float
) -> None:
    x, t, w = make(4, 3), of([0, 2, -100, 1], LONG), of([1.0, 2.0, 3.0])
    theirs = [compare.to_torch(torch, v) for v in (x, t, w)]
    theirs[0].requires_grad_()
    options = (reduction, -100, smoothing)
    torch.ops.aten.cross_entropy_loss(*theirs, *options).sum().backward()
    x.requires_grad_()
    aten.cross_entropy_loss.default(x, t, w, *options).sum().backward()
    compare.assert_close(x.grad, theirs[0].grad, family="gradient")


def test_the_weight_of_the_classes_has_no_gradient() -> None:
    w = of([1.0, 2.0, 3.0]).requires_grad_()
    loss = aten.nll_loss_forward.default(ROWS, CLASSES, w, 1, -100)[0]
    with pytest.raises(PlaitError, match="'weight' is not implemented"):
        loss.backward()


def test_broadcast_squares_sum_their_gradient() -> None:
    x, y = make(3, 4), make(4, seed=1).requires_grad_()
    aten.mse_loss.default(x, y, 2).backward()
    wanted = 2 * (y.detach().numpy() - x.numpy()).sum(0)
    np.testing.assert_allclose(y.grad.numpy(), wanted, rtol=1e-5)
