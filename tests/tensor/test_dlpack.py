"""Memory shared with other libraries, both ways: DLPack, NumPy's protocols, Python's buffers."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import plait
from plait.base.errors import ArgumentTypeError, ExchangeError, InplaceError, InvalidArgument
from plait.tensor import dlpack
from plait.tensor import dtype as dt

TYPES = pytest.mark.parametrize("dtype", dt.ALL_DTYPES, ids=lambda d: d.name)
NUMPY_TYPES = pytest.mark.parametrize(
    "dtype", [d for d in dt.ALL_DTYPES if d is not dt.bfloat16], ids=lambda d: d.name
)


class Producer:
    """Speaks DLPack, and tells whether somebody still holds its memory."""

    def __init__(self, array: Any, *, legacy: bool = False, device: tuple[int, int] = (1, 0)):
        self.array, self.legacy, self.device = array, legacy, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        if self.legacy and options:
            raise TypeError("unexpected keyword arguments")
        return self.array.__dlpack__(**options)


def memory(values: Any) -> tuple[Any, Any]:
    """An array whose memory is watched: (array, weak reference to what owns it)."""

    class Owner:
        def __init__(self) -> None:
            self.array = np.array(values)
            self.__array_interface__ = self.array.__array_interface__

    owner = Owner()
    return np.asarray(owner), weakref.ref(owner)


# ---------------------------------------------------------------- with NumPy and PyTorch


@TYPES
def test_torch_and_plait_see_each_others_writes(torch: Any, dtype: dt.DType) -> None:
    ours = plait.zeros(2, 3, dtype=dtype)
    theirs = torch.from_dlpack(ours)
    assert str(theirs.dtype) == f"torch.{dtype.name.rstrip('_')}"
    theirs[0, 1] = 1
    assert ours.tolist()[0][1] == 1
    back = plait.from_dlpack(theirs)
    assert back.dtype is dtype and back.data_ptr() == ours.data_ptr() == theirs.data_ptr()
    back[1, 2] = 1
    assert theirs[1, 2] == 1


@NUMPY_TYPES
def test_numpy_and_plait_see_each_others_writes(dtype: dt.DType) -> None:
    ours = plait.zeros(2, 3, dtype=dtype)
    theirs = np.from_dlpack(ours)
    theirs[0, 1] = 1
    back = plait.from_dlpack(theirs)
    assert back.dtype is dtype and back.data_ptr() == ours.data_ptr()
    back[1, 2] = 1
    assert ours.tolist() == [[0, 1, 0], [0, 0, 1]] == theirs.tolist()


@pytest.mark.parametrize("versioned", [False, True])
def test_both_forms_of_capsules(versioned: bool) -> None:
    options: dict[str, Any] = {"max_version": (1, 0)} if versioned else {}
    x = plait.tensor([1.5, 2.5], dtype=plait.bfloat16)
    capsule = x.__dlpack__(**options)
    assert ("dltensor_versioned" if versioned else '"dltensor"') in repr(capsule)
    y = plait.from_dlpack(capsule)
    assert y.dtype is plait.bfloat16 and y.data_ptr() == x.data_ptr()
    assert "used_dltensor" in repr(capsule)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(4, 6)[1::2, ::3],
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 3)),
        np.array(2.5),
        np.ones((1, 4))[:, :1],
    ],
    ids=["strided", "transposed", "empty", "0-d", "ones"],
)
def test_layouts(torch: Any, legacy: bool, array: Any) -> None:
    ours = plait.from_dlpack(Producer(array, legacy=legacy))
    np.testing.assert_array_equal(ours.numpy(), array)
    if array.size:
        assert np.shares_memory(ours.numpy(), array)
    theirs = torch.from_dlpack(plait.from_numpy(array))
    np.testing.assert_array_equal(theirs.numpy(), array)
    np.testing.assert_array_equal(torch.from_dlpack(ours).numpy(), array)


def test_a_view_is_exported_from_its_offset(torch: Any) -> None:
    x = plait.arange(12).reshape(3, 4)[1:, 1::2]
    theirs = torch.from_dlpack(x)
    assert theirs.tolist() == [[5, 7], [9, 11]] and theirs.stride() == x.strides
    theirs[0, 0] = -1
    assert x.tolist()[0][0] == -1


# ---------------------------------------------------------------- ownership


def test_the_consumer_keeps_the_memory() -> None:
    array, alive = memory([1.0, 2.0])
    taken = plait.from_dlpack(array)
    del array
    gc.collect()
    assert alive() is not None and taken.tolist() == [1.0, 2.0]
    view = taken[1:]
    del taken
    gc.collect()
    assert alive() is not None and view.tolist() == [2.0]
    del view
    gc.collect()
    assert alive() is None


def test_what_we_give_outlives_our_tensor(torch: Any) -> None:
    for dtype in (dt.float32, dt.bfloat16):
        x = plait.ones(1000, dtype=dtype)
        alive = weakref.ref(x)
        theirs = torch.from_dlpack(x)
        del x
        gc.collect()
        assert alive() is None and theirs.sum() == 1000


def test_a_capsule_that_nobody_takes_frees_its_memory() -> None:
    array, alive = memory([1.0])
    capsule = plait.from_numpy(array).__dlpack__(max_version=(1, 0))
    del array
    gc.collect()
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


def test_an_empty_array_is_let_go_of_at_once() -> None:
    array, alive = memory(np.zeros((0, 2)))
    taken = plait.from_dlpack(array)
    del array
    gc.collect()
    assert taken.shape == (0, 2) and alive() is None


def test_copies(torch: Any) -> None:
    x = plait.ones(2)
    assert torch.from_dlpack(x, copy=True).data_ptr() != x.data_ptr()
    assert plait.from_dlpack(x, copy=True).data_ptr() != x.data_ptr()
    assert plait.from_dlpack(x.__dlpack__(), copy=True).data_ptr() != x.data_ptr()
    assert plait.from_dlpack(x, copy=False).data_ptr() == x.data_ptr()


# ---------------------------------------------------------------- refusals


def test_read_only_memory_stays_read_only() -> None:
    array = np.ones(3)
    array.flags.writeable = False
    taken = plait.from_dlpack(array)
    with pytest.raises(InplaceError, match="read-only"):
        taken.add_(1)
    again = plait.from_dlpack(taken)
    with pytest.raises(InplaceError, match="read-only"):
        again.zero_()
    with pytest.raises(ExchangeError, match=r"read-only.*1\.0"):
        taken.__dlpack__()
    assert plait.from_dlpack(taken.__dlpack__(copy=True)).zero_().tolist() == [0, 0, 0]


def test_a_capsule_is_consumed_once() -> None:
    capsule = plait.ones(2).__dlpack__()
    plait.from_dlpack(capsule)
    with pytest.raises(ExchangeError, match="only once"):
        plait.from_dlpack(capsule)


def test_negative_strides_are_refused_and_stay_the_producers() -> None:
    array, alive = memory([1.0, 2.0, 3.0])
    with pytest.raises(ExchangeError, match=r"negative stride.*Copy"):
        plait.from_dlpack(array[::-1])
    del array
    gc.collect()
    assert alive() is None


def test_other_devices_are_refused() -> None:
    with pytest.raises(ExchangeError, match="another device.*Move it"):
        plait.from_dlpack(Producer(np.ones(2), device=(2, 0)))
    with pytest.raises(ExchangeError, match="another device"):
        plait.ones(2).__dlpack__(dl_device=(2, 0))
    with pytest.raises(ExchangeError, match="stream"):
        plait.ones(2).__dlpack__(stream=7)
    capsule = np.ones(2).__dlpack__()
    dlpack._managed(capsule).tensor.device_type = 2
    with pytest.raises(ExchangeError, match="another device"):
        plait.from_dlpack(capsule)
    dlpack._managed(capsule).tensor.device_type = 1


def test_unknown_types_and_versions_are_refused() -> None:
    for code, lanes in ((3, 1), (0, 4)):
        capsule = np.ones(2, np.int32).__dlpack__()
        dlpack._managed(capsule).tensor.code = code
        dlpack._managed(capsule).tensor.lanes = lanes
        with pytest.raises(ExchangeError, match="element type"):
            plait.from_dlpack(capsule)
    capsule = np.ones(2).__dlpack__(max_version=(1, 0))
    dlpack._managed(capsule).major = 2
    with pytest.raises(ExchangeError, match="version 2"):
        plait.from_dlpack(capsule)
    dlpack._managed(capsule).major = 1


def test_memory_that_is_not_aligned_is_refused() -> None:
    capsule = np.ones(4).__dlpack__()
    dlpack._managed(capsule).tensor.byte_offset = 4
    with pytest.raises(ExchangeError, match="aligned"):
        plait.from_dlpack(capsule)
    shifted = np.arange(4.0).__dlpack__()
    managed = dlpack._managed(shifted)
    managed.tensor.byte_offset, managed.tensor.shape[0] = 16, 2
    assert plait.from_dlpack(shifted).tolist() == [2.0, 3.0]


def test_what_speaks_no_dlpack() -> None:
    for source in (3, [1.0], None):
        with pytest.raises(ArgumentTypeError, match="capsule"):
            plait.from_dlpack(source)


def test_a_tensor_that_requires_grad_is_not_shared(torch: Any) -> None:
    x = plait.ones(2, requires_grad=True)
    with pytest.raises(ExchangeError, match="detach"):
        x.__dlpack__()
    with pytest.raises(BufferError):
        torch.from_dlpack(x)
    assert torch.from_dlpack(x.detach()).data_ptr() == x.data_ptr()


# ---------------------------------------------------------------- NumPy's protocols


def test_array_protocol() -> None:
    x = plait.tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x), x.numpy())
    assert np.asarray(x, np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x), x.numpy())
    assert np.shares_memory(np.array(x, copy=False), x.numpy())
    with pytest.raises(ValueError, match="copy"):
        np.array(x, dtype=np.int8, copy=False)
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(plait.ones(2, requires_grad=True))
    b = plait.ones(2, dtype=plait.bfloat16)
    assert np.asarray(b).dtype == ml_dtypes.bfloat16 == b.numpy().dtype


def test_buffer_protocol() -> None:
    x = plait.arange(6).reshape(2, 3)
    shown = memoryview(x) if sys.version_info >= (3, 12) else x.__buffer__(0)  # type: ignore[arg-type]
    assert shown.shape == (2, 3) and shown.format == "l"
    shown[1, 2] = 50
    assert x.tolist()[1] == [3, 4, 50]
    assert memoryview(x.numpy())[0, 1] == 1
    with pytest.raises(ExchangeError, match="bfloat16"):
        plait.ones(2, dtype=plait.bfloat16).__buffer__(0)
    with pytest.raises(ExchangeError, match="read-only"):
        plait.from_numpy(np.frombuffer(b"abcd", np.uint8)).__buffer__(1)
    with pytest.raises(ExchangeError, match="detach"):
        plait.ones(2, requires_grad=True).__buffer__(0)


# ---------------------------------------------------------------- as_tensor, asarray


def test_as_tensor_shares_what_it_can() -> None:
    array = np.arange(3.0)
    for source in (array, plait.from_numpy(array), Producer(array), memoryview(array)):
        assert np.shares_memory(plait.as_tensor(source).numpy(), array)
    x = plait.from_numpy(array)
    assert plait.as_tensor(x) is x and plait.as_tensor(x, dtype=x.dtype) is x
    assert plait.as_tensor(array, dtype=plait.float32).dtype is plait.float32
    assert plait.as_tensor(array[::-1]).tolist() == [2.0, 1.0, 0.0]
    assert plait.as_tensor([1, 2], dtype=plait.int8).dtype is plait.int8
    assert plait.as_tensor(np.float32(2)).dtype is plait.float32
    assert plait.as_tensor((ctypes.c_int8 * 2)(3, 4)).tolist() == [3, 4]
    assert plait.as_tensor(1.5).shape == () and plait.as_tensor(x, device="cpu") is x
    y = plait.ones(2, requires_grad=True)
    assert plait.as_tensor(y, dtype=plait.float64).requires_grad


def test_asarray_copies_as_told() -> None:
    array = np.arange(3.0)
    assert np.shares_memory(plait.asarray(array).numpy(), array)
    assert not np.shares_memory(plait.asarray(array, copy=True).numpy(), array)
    assert np.shares_memory(plait.asarray(array, copy=False).numpy(), array)
    for source, dtype in (([1.0], None), (array, plait.int8), (array[::-1], None)):
        with pytest.raises(InvalidArgument, match="copy"):
            plait.asarray(source, dtype=dtype, copy=False)
    y = plait.ones(2, requires_grad=True)
    assert not plait.asarray(y).requires_grad
    assert plait.asarray([1.0], requires_grad=True).requires_grad
