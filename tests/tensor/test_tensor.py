"""The Tensor class: metadata, reading data, the tape's fields, making tensors from data."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from plait.base.errors import (
    ArgumentTypeError,
    AutogradError,
    DtypeMismatch,
    IndexOutOfRange,
    InvalidArgument,
    ShapeMismatch,
)
from plait.tensor import dtype as dt
from plait.tensor.device import CPU
from plait.tensor.layout import Layout, TensorMeta
from plait.tensor.tensor import Tensor, empty_strided, from_dlpack, from_numpy, tensor, wrap

FLOATS = (dt.float16, dt.bfloat16, dt.float32, dt.float64)


@pytest.fixture
def double_default() -> Iterator[None]:
    dt.set_default_dtype(dt.float64)
    yield
    dt.set_default_dtype(dt.float32)


def test_metadata() -> None:
    t = wrap(np.zeros((2, 3), np.float64))
    assert (t.shape, t.strides, t.stride(), t.stride(1)) == ((2, 3), (3, 1), (3, 1), 1)
    assert (t.ndim, t.dim(), t.numel(), t.size(), t.size(-1)) == (2, 2, 6, (2, 3), 3)
    assert (t.dtype, t.device, t.storage_offset()) == (dt.float64, CPU, 0)
    assert (t.itemsize, t.element_size(), t.nbytes, len(t)) == (8, 8, 48, 2)
    assert t.is_contiguous() and t.is_floating_point() and t.is_signed() and not t.is_complex()
    assert t.layout == Layout((2, 3)) and t.meta == TensorMeta((2, 3), dt.float64)
    assert not t.requires_grad and t.is_leaf and t.grad_fn is None and not t.is_fake
    with pytest.raises(IndexOutOfRange, match=r"size: argument 'dim'.*got 2"):
        t.size(2)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (2, 0, 3), (1, 3), (3, 1), ()])
def test_strides_of_sizes_0_and_1_are_pytorchs(torch: Any, shape: tuple[int, ...]) -> None:
    assert wrap(np.empty(shape, np.float32)).strides == torch.empty(shape).stride()


def test_strides_of_arrays_in_other_orders() -> None:
    assert wrap(np.empty((2, 3)).T).strides == (1, 3)
    assert not wrap(np.empty((2, 3)).T).is_contiguous()


def test_instances_hold_only_what_differs() -> None:
    assert set(vars(wrap(np.zeros(3)))) == {"_array", "_dtype"}


@pytest.mark.parametrize("dtype", dt.ALL_DTYPES, ids=lambda dtype: dtype.name)
def test_items_are_python_numbers(dtype: dt.DType) -> None:
    t = tensor([1, 0], dtype=dtype)
    kind = (bool, int, float, complex)[dtype.category]
    assert t.tolist() == [1, 0] and {type(value) for value in t.tolist()} == {kind}
    one = tensor(1, dtype=dtype)
    assert one.item() == 1 and type(one.item()) is kind and bool(one) is True
    assert complex(one) == 1 and one.tolist() == 1
    assert tensor([[1]], dtype=dtype).item() == 1


def test_conversions() -> None:
    assert (float(tensor(2.5)), int(tensor(2.5)), int(tensor([7]))) == (2.5, 2, 7)
    assert [10, 20, 30][tensor(1)] == 20
    assert f"{tensor(0.125):.2f}" == "0.12" and f"{tensor([1])}" == "tensor([1])"
    with pytest.raises(ArgumentTypeError, match="integer"):
        [1][tensor(0.0)]
    with pytest.raises(ShapeMismatch, match="2 elements cannot be converted to a scalar"):
        tensor([1, 2]).item()
    with pytest.raises(ShapeMismatch, match="float: "):
        float(tensor([1.0, 2.0]))
    for ambiguous in ([1, 2], []):
        with pytest.raises(ShapeMismatch, match="ambiguous"):
            bool(tensor(ambiguous))
    with pytest.raises(ArgumentTypeError, match="0-d"):
        len(tensor(1))


def test_tensors_hash_by_identity() -> None:
    a, b = tensor([1]), tensor([1])
    assert len({a, b, a}) == 2


# ---------------------------------------------------------------- NumPy


def test_numpy_is_zero_copy_both_ways() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = from_numpy(array)
    array[0, 0] = 10
    assert t.tolist()[0][0] == 10
    t.numpy()[1, 2] = 20
    assert array[1, 2] == 20
    assert np.shares_memory(np.asarray(t), array) and t.data_ptr() == array.ctypes.data
    t.numpy().shape = (6,)  # the tensor's own view is not handed out
    assert t.shape == (2, 3)


def test_array_protocol() -> None:
    t = tensor([1.0, 2.0])
    assert np.asarray(t, dtype=np.int8).tolist() == [1, 2]
    assert not np.shares_memory(np.array(t, copy=True), t.numpy())
    with pytest.raises(ValueError):
        np.array(t, dtype=np.int8, copy=False)


def test_numpy_of_a_tensor_that_requires_grad() -> None:
    t = tensor([1.0], requires_grad=True)
    with pytest.raises(AutogradError, match="detach"):
        t.numpy()
    with pytest.raises(AutogradError, match="detach"):
        np.asarray(t)
    assert t.numpy(force=True).tolist() == [1.0]


def test_from_numpy_keeps_strides() -> None:
    whole = np.arange(24).reshape(4, 6)
    t = from_numpy(whole[1::2, ::3].T)
    assert (t.shape, t.strides, t.storage_offset()) == ((2, 2), (3, 12), 0)
    assert t.tolist() == whole[1::2, ::3].T.tolist()
    assert t.storage.nbytes == 16 * 8 and t.storage.address == whole[1:].ctypes.data
    assert from_numpy(np.broadcast_to(np.float32(1), (3,))).strides == (0,)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.arange(3)[::-1], "negative stride"),
        (np.zeros(4, "i1,f4")["f1"], "multiple of the element size"),
        (np.zeros(9, np.uint8)[1:].view(np.float32), "not aligned"),
    ],
    ids=["negative", "non-multiple", "unaligned"],
)
def test_from_numpy_refuses_memory_it_cannot_describe(array: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as raised:
        from_numpy(array)
    assert isinstance(raised.value, ValueError) and "array.copy()" in str(raised.value)


def test_from_numpy_refuses_other_things() -> None:
    with pytest.raises(ArgumentTypeError, match="got list"):
        from_numpy([1])  # type: ignore[arg-type]
    for array in (np.array(["a"]), np.array([None]), np.zeros(2, ">f4")):
        with pytest.raises(ArgumentTypeError, match="astype"):
            from_numpy(array)


def test_read_only_arrays_give_read_only_storages() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    t = from_numpy(array)
    assert t.storage.readonly and not t.storage.owner.flags.writeable  # type: ignore[union-attr]
    assert not from_numpy(np.zeros(3)).storage.readonly


def test_from_numpy_takes_subclasses_as_plain_arrays() -> None:
    class Special(np.ndarray[Any, Any]):
        pass

    special = np.zeros(3).view(Special)
    t = from_numpy(special)
    assert type(t.numpy()) is np.ndarray and np.shares_memory(t.numpy(), special)


def test_bfloat16() -> None:
    array = np.array([1.5, -2, np.inf], ml_dtypes.bfloat16)
    t = from_numpy(array)
    assert t.dtype is dt.bfloat16 and t.tolist() == [1.5, -2.0, float("inf")]
    assert t.numpy().dtype == array.dtype and np.shares_memory(t.numpy(), array)
    assert (
        t.storage.nbytes == 6
        and repr(t) == "tensor([ 1.5000, -2.0000,     inf], dtype=plait.bfloat16)"
    )


def test_dlpack() -> None:
    array = np.arange(3.0)
    t = from_dlpack(array)
    assert np.shares_memory(np.from_dlpack(t), array)


def test_dlpack_with_torch(torch: Any) -> None:
    theirs = torch.arange(3.0)
    ours = from_dlpack(theirs)
    theirs[0] = 5
    assert ours.tolist() == [5, 1, 2]
    assert torch.from_dlpack(ours).data_ptr() == theirs.data_ptr()


# ---------------------------------------------------------------- data

CASES: list[Any] = [
    1,
    True,
    2.5,
    1j,
    [],
    [[], []],
    [1, 2],
    [1, 2.5],
    [True, 2],
    [[True], [2.5]],
    [True, False],
    [1, 1j],
    (1, [2, 3][0]),
    range(3),
    np.float64(1),
    np.float32(1),
    [np.float64(1.0)],
    [np.int8(1), np.int8(2)],
    np.arange(3, dtype=np.int16),
    [np.ones(2), np.zeros(2)],
    float("nan"),
    [float("inf"), -1],
    2**40,
]


@pytest.mark.parametrize("data", CASES, ids=repr)
def test_tensor_of_data(torch: Any, data: Any) -> None:
    is_list_of_arrays = isinstance(data, list) and data and isinstance(data[0], np.ndarray)
    expected = torch.tensor(np.array(data) if is_list_of_arrays else data)
    ours = tensor(data)
    assert f"torch.{ours.dtype.name.rstrip('_')}" == str(expected.dtype)
    assert (ours.shape, ours.strides) == (tuple(expected.shape), expected.stride())
    np.testing.assert_array_equal(ours.numpy(), expected.numpy())


def test_tensor_copies() -> None:
    array = np.zeros(3)
    t = tensor(array)
    again = tensor(t)
    array[0] = 1
    t.numpy()[1] = 2
    assert t.tolist() == [0, 2, 0] and again.tolist() == [0, 0, 0]
    assert tensor(np.zeros((2, 3)).T).strides == (2, 1)


def test_tensor_of_tensors() -> None:
    assert tensor([tensor(1), tensor(2)]).tolist() == [1, 2]
    assert tensor([tensor(1.0, dtype=dt.float64), 2]).dtype is dt.float64


def test_tensor_with_a_type() -> None:
    assert tensor([1.7, 2], dtype=dt.int64).tolist() == [1, 2]
    assert tensor([0, 3], dtype=dt.bool_).tolist() == [False, True]
    assert tensor(1, dtype=float).dtype is dt.float32  # type: ignore[arg-type]


@pytest.mark.usefixtures("double_default")
def test_python_floats_get_the_default_type() -> None:
    assert tensor(1.5).dtype is dt.float64 and tensor(1j).dtype is dt.complex128


@pytest.mark.parametrize(
    ("data", "dtype", "error", "message"),
    [
        ([1, [2]], None, InvalidArgument, "equal lengths"),
        ([[1, 2], [3]], None, InvalidArgument, "equal lengths"),
        (300, dt.uint8, InvalidArgument, "cannot be stored as plait.uint8"),
        (2**70, None, InvalidArgument, "cannot be stored as plait.int64"),
        ("a", None, ArgumentTypeError, "holds a str; got 'a'"),
        ([None], None, ArgumentTypeError, "holds a NoneType"),
        ({1: 2}, None, ArgumentTypeError, "holds a dict"),
        ([None], dt.int64, ArgumentTypeError, "not a number"),
    ],
)
def test_tensor_refuses(data: Any, dtype: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tensor(data, dtype=dtype)


def test_empty_strided() -> None:
    t = empty_strided((2, 3), (1, 2), dt.float32)
    assert (t.shape, t.strides, t.storage.nbytes) == ((2, 3), (1, 2), 24)
    assert t.data_ptr() % 64 == 0 and t.numpy().flags.writeable
    assert empty_strided((), None, dt.bfloat16).shape == ()
    assert empty_strided((0, 3), None, dt.int8).strides == (3, 1)


# ---------------------------------------------------------------- the tape's fields


def test_requires_grad() -> None:
    t = tensor([1.0], requires_grad=True)
    assert t.requires_grad and t.is_leaf and t.requires_grad_(False) is t and not t.requires_grad
    with pytest.raises(DtypeMismatch, match="only floating and complex"):
        tensor([1], requires_grad=True)
    result = wrap(np.zeros(1))
    result._requires_grad, result._grad_fn = True, object()
    assert not result.is_leaf
    with pytest.raises(AutogradError, match="leaf"):
        result.requires_grad = False


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1.0, ArgumentTypeError),
        (tensor([1.0, 2.0]), ShapeMismatch),
        (tensor([1.0], dtype=dt.float64), DtypeMismatch),
    ],
    ids=["number", "shape", "dtype"],
)
def test_grad_is_checked(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="grad: assigned"):
        tensor([1.0]).grad = value


def test_grad() -> None:
    t, g = tensor([1.0]), tensor([2.0])
    t.grad = g
    assert t.grad is g
    t.grad = None
    assert t.grad is None
    t.grad = g
    del t.grad
    assert t.grad is None
    with pytest.raises(AutogradError, match="own gradient"):
        t.grad = t


def test_copying_and_pickling() -> None:
    class Parameter(Tensor):
        pass

    t = tensor([[1.0, 2.0]], requires_grad=True)
    t.grad = tensor([[3.0, 4.0]])
    for again in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert again.tolist() == t.tolist() and again.requires_grad and again.dtype is t.dtype
        assert not np.shares_memory(again.numpy(force=True), t.numpy(force=True))
    copied = copy.deepcopy(t).grad
    assert copied is not None and copied is not t.grad and copied.tolist() == [[3.0, 4.0]]
    shared = tensor([1.0])
    first, second = copy.deepcopy([shared, shared])
    assert first is second
    parameter = Parameter()
    parameter._array, parameter._dtype = np.zeros(2), dt.float64
    assert type(copy.deepcopy(parameter)) is Parameter
    t._grad_fn = object()
    with pytest.raises(AutogradError, match="leaf"):
        copy.deepcopy(t)
