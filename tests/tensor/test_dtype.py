"""Element types, devices and what may stand for them."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from plait.base.errors import ArgumentTypeError, DtypeMismatch, InvalidArgument
from plait.tensor import device as devices
from plait.tensor import dtype as dt
from plait.tensor.device import CPU, Device


@pytest.mark.parametrize("dtype", dt.ALL_DTYPES, ids=lambda dtype: dtype.name)
def test_singletons(dtype: dt.DType) -> None:
    assert dt.from_numpy(dtype.numpy) is dtype
    assert dt.by_name(dtype.name) is dtype is getattr(dt, dtype.name)
    assert copy.deepcopy(dtype) is dtype is copy.copy(dtype)
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert repr(dtype) == f"plait.{dtype.name}"
    assert dtype.itemsize == dtype.numpy.itemsize
    assert dtype.is_bool + dtype.is_integral + dtype.is_floating + dtype.is_complex == 1


def test_priorities_order_categories_and_widths() -> None:
    names = [dtype.name for dtype in sorted(dt.ALL_DTYPES, key=lambda dtype: dtype.priority)]
    assert names[0] == "bool_" and names[-1] == "complex128"
    assert [d.category for d in sorted(dt.ALL_DTYPES, key=lambda d: d.priority)] == sorted(
        d.category for d in dt.ALL_DTYPES
    )


def test_bfloat16_is_floating() -> None:
    assert dt.bfloat16.numpy == np.dtype(ml_dtypes.bfloat16)
    assert dt.bfloat16.is_floating and dt.bfloat16.is_floating_point and dt.bfloat16.itemsize == 2


@pytest.mark.parametrize("bad", [np.dtype("O"), np.dtype("U3"), np.dtype(">f4"), np.dtype("M8[s]")])
def test_numpy_types_that_no_tensor_holds(bad: np.dtype[np.generic]) -> None:
    with pytest.raises(ArgumentTypeError, match="astype"):
        dt.from_numpy(bad)


def test_as_dtype() -> None:
    assert [dt.as_dtype(kind) for kind in (bool, int, float, complex)] == [
        dt.bool_,
        dt.int64,
        dt.float32,
        dt.complex64,
    ]
    assert dt.as_dtype("long") is dt.int64 and dt.as_dtype(np.float64) is dt.float64
    assert dt.as_dtype(np.dtype("int8")) is dt.int8 and dt.as_dtype(dt.int8) is dt.int8
    with pytest.raises(ArgumentTypeError, match="unknown element type 'f99'"):
        dt.as_dtype("f99")
    with pytest.raises(ArgumentTypeError, match="expected an element type"):
        dt.as_dtype(3)


def test_default_dtype() -> None:
    assert dt.get_default_dtype() is dt.float32
    with pytest.raises(DtypeMismatch, match="must be floating"):
        dt.set_default_dtype(dt.int64)
    with pytest.raises(ArgumentTypeError):
        dt.set_default_dtype("float64")  # type: ignore[arg-type]


def test_to_complex() -> None:
    assert dt.to_complex(dt.float64) is dt.complex128 is dt.to_complex(dt.complex128)
    assert dt.to_complex(dt.float32) is dt.complex64


def test_devices() -> None:
    assert devices.parse(None) is CPU is devices.parse("cpu") is devices.parse(CPU)
    assert devices.parse("cpu:1") == Device("cpu", 1) != CPU
    assert hash(Device("cpu")) == hash(CPU) and Device("cpu") == CPU != "cpu"
    assert (str(Device("cpu", 1)), repr(CPU)) == ("cpu:1", "device(type='cpu')")
    assert pickle.loads(pickle.dumps(Device("meta"))) == Device("meta")


def test_device_errors() -> None:
    with pytest.raises(InvalidArgument, match="not a known device type; got 'gpu'"):
        Device("gpu")
    with pytest.raises(InvalidArgument, match="names an index badly"):
        Device("cpu:x")
    with pytest.raises(ArgumentTypeError, match="got int"):
        devices.parse(3)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="immutable"):
        CPU.type = "meta"
