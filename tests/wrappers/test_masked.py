"""`MaskedTensor`: what counts, gradients of what does not, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plait
from plait.base.errors import (
    ArgumentTypeError,
    AutogradError,
    DtypeMismatch,
    MissingKernel,
    ShapeMismatch,
)
from plait.wrappers import MaskedTensor

VALUES = np.array([[1.0, -2.0, 3.0], [4.0, np.nan, -6.0]], np.float32)
MASK = np.array([[True, True, False], [True, False, True]])


def masked() -> MaskedTensor:
    return MaskedTensor.of(plait.tensor(VALUES), plait.tensor(MASK))


def reference() -> Any:
    return np.ma.masked_array(VALUES, ~MASK)


def same(found: Any, want: Any) -> None:
    assert type(found) is MaskedTensor
    np.testing.assert_array_equal(found.mask.numpy(), ~np.ma.getmaskarray(want))
    np.testing.assert_allclose(found.to_dense(0.5).numpy(), np.ma.filled(want, 0.5), rtol=1e-6)


def test_pointwise_operators_keep_or_join_masks() -> None:
    x, r = masked(), reference()
    same(x * 2 + 1, r * 2 + 1)
    same(x.exp(), np.ma.exp(r))
    same(x * plait.ones(2, 1, 3), r * np.ones((2, 1, 3), np.float32))
    other = MaskedTensor.of(plait.ones(3), plait.tensor([False, True, True]))
    same(x + other, r + np.ma.masked_array(np.ones(3, np.float32), [True, False, False]))
    assert (x > 0).mask.tolist() == MASK.tolist() and (x > 0).dtype is plait.bool_


@pytest.mark.parametrize("dim", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["sum", "amax", "amin", "mean"])
def test_reductions_leave_out_what_does_not_count(name: str, dim: Any, keepdim: bool) -> None:
    if dim is None and (keepdim or name.startswith("a")):
        dim = (0, 1)
    x = masked()
    numpy_name = {"amax": "max", "amin": "min"}.get(name, name)
    want = getattr(reference(), numpy_name)(axis=dim, **({"keepdims": True} if keepdim else {}))
    found = getattr(x, name)() if dim is None else getattr(x, name)(dim, keepdim=keepdim)
    np.testing.assert_allclose(found.to_dense().numpy(), np.ma.filled(want, 0.0), rtol=1e-6)


def test_where_nothing_counts_the_result_does_not() -> None:
    x = MaskedTensor.of(plait.ones(2, 2), plait.tensor([[False, False], [True, True]]))
    for name in ("sum", "mean", "amax"):
        assert getattr(x, name)(1).mask.tolist() == [False, True]
    assert x.count().item() == 2.0 and x.count(1).tolist() == [0.0, 2.0]
    whole = MaskedTensor.of(plait.tensor([3, 7]), plait.tensor([True, False]))
    assert whole.max().item() == 3 and whole.min().item() == 3 and whole.sum().item() == 3
    flags = MaskedTensor.of(plait.tensor([True, False]), plait.tensor([True, False]))
    assert flags.min().item() is True


def test_views_show_values_and_mask() -> None:
    x, r = masked(), reference()
    same(x.t(), r.T)
    same(x[1], r[1])
    same(x.reshape(3, 2), r.reshape(3, 2))
    same(x.unsqueeze(0).expand(2, 2, 3), np.ma.stack([r, r]))
    assert x.t().storage is x.storage
    x[0].mul_(2)
    assert x.values[0].tolist() == [2.0, -4.0, 6.0]


def test_writes_stay_masked() -> None:
    x = masked()
    assert x.add_(1) is x and x.values[0, 0].item() == 2.0
    x.mul_(MaskedTensor.of(plait.ones(3), plait.tensor([False, True, True])))
    assert x.mask.tolist() == [[False, True, False], [False, False, True]]
    with pytest.raises(ArgumentTypeError, match="the target is a plain tensor"):
        plait.ones(2, 3).add_(x)


PROGRAMS = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: (x * x).mean(),
    "mean of rows": lambda x: (x.mean(1) ** 2).sum(),
    "largest": lambda x: x.amax(1).sum(),
    "views": lambda x: (x.t()[0] * x.reshape(6)[1:3]).sum(),
    "centred": lambda x: ((x - x.mean(1, keepdim=True)) ** 2).mean(),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_are_those_of_the_values_that_count(name: str, compiled: bool) -> None:
    """Against numeric derivatives of the same function of the values, in float64."""

    def fn(values: Any, mask: Any) -> Any:
        return PROGRAMS[name](MaskedTensor.of(values, mask)).to_dense()

    call = plait.compile(fn, fullgraph=True) if compiled else fn
    array = np.where(MASK, VALUES, 100.0).astype(np.float64)
    mask = plait.tensor(MASK)
    x = plait.tensor(array, requires_grad=True)
    call(x, mask).backward()
    numeric = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = array.copy()
            moved[place] += step
            ends.append(fn(plait.tensor(moved), mask).item())
        numeric[place] = (ends[0] - ends[1]) / 2e-6
    assert x.grad is not None and type(x.grad) is plait.Tensor
    np.testing.assert_allclose(x.grad.numpy(), numeric, atol=1e-6)
    assert not x.grad.numpy()[~MASK].any()


def test_nan_that_does_not_count_reaches_no_gradient() -> None:
    x = plait.tensor(VALUES, requires_grad=True)
    (MaskedTensor.of(x, plait.tensor(MASK)) * 3).sum().to_dense().backward()
    assert x.grad is not None and x.grad.tolist() == (3.0 * MASK).tolist()


def test_the_rest_refuses() -> None:
    x = masked()
    softmax = plait.nn.functional.softmax
    for call in (
        lambda: plait.mean(x),
        lambda: x @ plait.ones(3, 2),
        lambda: softmax(x, 1),
        lambda: x.prod(),
        lambda: x.cumsum(0),
        lambda: plait.cat([x, x]),
        lambda: plait.ops.aten.add.out(x, x, out=masked()),
    ):
        with pytest.raises(MissingKernel, match="not defined for a MaskedTensor"):
            call()
    with pytest.raises(MissingKernel, match=r"Use the method mean\(\)"):
        plait.mean(x)
    with pytest.raises(DtypeMismatch, match="expected plait.bool_"):
        MaskedTensor(plait.ones(2), plait.ones(2))
    with pytest.raises(ShapeMismatch, match="Expand the mask first"):
        MaskedTensor(plait.ones(2), plait.ones(1, dtype=plait.bool_))
    with pytest.raises(AutogradError, match=r"Use MaskedTensor\.of\(values, mask\)"):
        x.requires_grad_()
