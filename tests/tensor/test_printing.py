"""What tensors look like, character by character as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plait.base.errors import InvalidArgument
from plait.tensor import dtype as dt
from plait.tensor.layout import TensorMeta
from plait.tensor.printing import print_options, tensor_repr
from plait.tensor.tensor import from_numpy, make_fake, tensor, wrap
from plait.testing.compare import to_torch


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (1.0, "tensor(1.)"),
        (True, "tensor(True)"),
        ([1.0, 2.0], "tensor([1., 2.])"),
        ([1.5, 2.0], "tensor([1.5000, 2.0000])"),
        ([1, -20], "tensor([  1, -20])"),
        ([True, False], "tensor([ True, False])"),
        ([], "tensor([])"),
        ([[], []], "tensor([], size=(2, 0))"),
        ([float("nan"), float("inf"), 1.0], "tensor([nan, inf, 1.])"),
        ([1e-5, 1.0], "tensor([1.0000e-05, 1.0000e+00])"),
        ([1j, 1 - 2j], "tensor([0.+1.j, 1.-2.j])"),
        ([[1, 2], [3, 4]], "tensor([[1, 2],\n        [3, 4]])"),
    ],
    ids=repr,
)
def test_small(data: Any, expected: str) -> None:
    assert repr(tensor(data)) == expected


def test_types_that_values_do_not_tell() -> None:
    assert repr(tensor([1], dtype=dt.int8)) == "tensor([1], dtype=plait.int8)"
    assert repr(tensor([], dtype=dt.int64)) == "tensor([], dtype=plait.int64)"
    assert repr(tensor(1.0, dtype=dt.float64)) == "tensor(1., dtype=plait.float64)"


def test_tape_suffixes() -> None:
    class AddBackward0:
        def name(self) -> str:
            return "AddBackward0"

    t = tensor([1.0], requires_grad=True)
    assert repr(t) == "tensor([1.], requires_grad=True)"
    t._grad_fn = AddBackward0()
    assert repr(t) == "tensor([1.], grad_fn=<AddBackward0>)"


def test_subclasses_and_fakes() -> None:
    from plait.tensor.tensor import Tensor

    class Masked(Tensor):
        pass

    t = Masked()
    t._array, t._dtype = np.ones((2, 2), np.float32), dt.float32
    assert repr(t) == "Masked([[1., 1.],\n        [1., 1.]])"
    assert tensor_repr(t, "tensor") == "tensor([[1., 1.],\n        [1., 1.]])"
    assert repr(make_fake(TensorMeta((3,), dt.float32))) == "tensor(..., size=(3,))"


def as_theirs(text: str) -> str:
    """Our text with PyTorch's type names."""
    return text.replace("plait.bool_", "torch.bool").replace("plait.", "torch.")


LARGE = [
    np.arange(1001),
    np.arange(2000).reshape(40, 50) / 7,
    np.arange(1200).reshape(10, 4, 30),
    np.ones((7, 2, 100), np.float32),
    np.zeros((0, 5000)),
    np.arange(30) * 1000.0,
    np.linspace(-1, 1, 50).reshape(5, 10),
    np.array([[1e10, 1.0], [np.nan, -np.inf]]),
    np.array([1e9, 2.0]),
    np.array([0.0, -0.0]),
    np.arange(2000).reshape(2, 1000) > 30,
    (np.arange(60) * (1 + 2j)).reshape(6, 10),
    np.array([1.5 + 1e-6j, np.nan - 1j]),
    np.ones((2, 3, 4, 5), np.float16),
    np.ones(300, np.uint8) * 200,
]


@pytest.mark.parametrize("array", LARGE, ids=lambda array: f"{array.dtype}{array.shape}")
def test_large_as_pytorch(torch: Any, array: Any) -> None:
    assert as_theirs(repr(from_numpy(array))) == repr(torch.from_numpy(array))


arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.complex64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@settings(max_examples=150)
@given(array=arrays)
def test_random_as_pytorch(torch: Any, array: Any) -> None:
    assert as_theirs(repr(wrap(array))) == repr(torch.from_numpy(array))


@pytest.mark.parametrize("dtype", dt.ALL_DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 0), (2, 3), (1001,)], ids=str)
def test_every_type_as_pytorch(torch: Any, dtype: dt.DType, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    values: Any = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape)
    if dtype.is_complex:
        values = values + 1j * rng.normal(size=shape)
    with np.errstate(all="ignore"):
        x = from_numpy(np.asarray(values).astype(dtype.numpy))
    assert as_theirs(repr(x)) == repr(to_torch(torch, x))


def test_long_suffixes_go_to_a_new_line(torch: Any) -> None:
    data = [100.5] * 8
    assert as_theirs(repr(tensor(data, dtype=dt.float64, requires_grad=True))) == repr(
        torch.tensor(data, dtype=torch.float64, requires_grad=True)
    )


def test_options(torch: Any) -> None:
    array = np.arange(20.0) / 3
    options: dict[str, Any] = {
        "precision": 2,
        "threshold": 10,
        "edgeitems": 2,
        "linewidth": 30,
        "sci_mode": True,
    }
    before = repr(from_numpy(array))
    with print_options(**options):
        ours = repr(from_numpy(array))
    with torch._tensor_str.printoptions(**options):
        assert as_theirs(ours) == repr(torch.from_numpy(array))
    assert repr(from_numpy(array)) == before
    with pytest.raises(InvalidArgument, match="unknown option 'digits'"), print_options(digits=3):
        pass
