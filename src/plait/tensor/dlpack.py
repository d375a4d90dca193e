"""DLPack: memory shared with other array libraries, in both directions, without a copy.

Owns the structures of DLPack 1.0 and of the older form without a version. Knows addresses, element
types and capsules; knows nothing of tensors. Capsules that go out are NumPy's, whose destructor
is C code that may run without the interpreter's lock, or when the interpreter is gone; what NumPy
cannot say (bfloat16) is corrected in the structure before anyone has seen it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from plait.base.errors import ArgumentTypeError, ExchangeError, check
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import ALL_DTYPES, DType

__all__ = ["CPU_DEVICE", "array_of", "capsule_of"]

Array = np.ndarray[Any, Any]

CPU_DEVICE = (1, 0)  # (kDLCPU, number)
_READ_ONLY = 1  # bit of `flags`
_NEWEST = (1, 0)  # the version asked for; a major version is one structure


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; NULL: contiguous
        ("byte_offset", ctypes.c_uint64),
    ]


class _Legacy(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [
        ("tensor", _DLTensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


# The name of a capsule -> (its structure, its name once consumed). A capsule keeps the name's
# address, so these bytes must live as long as the process.
_FORMS: dict[bytes, tuple[Any, bytes]] = {
    b"dltensor": (_Legacy, b"used_dltensor"),
    b"dltensor_versioned": (_Versioned, b"used_dltensor_versioned"),
}

# Codes of DLDataType, by what a type is called without its width.
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool_": 6}
_TYPES: dict[tuple[int, int], DType] = {
    (_CODES[dtype.name.rstrip("0123456789")], 8 * dtype.itemsize): dtype for dtype in ALL_DTYPES
}
_BFLOAT16 = (_CODES["bfloat"], 16)

_capsule_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_rename_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
_Deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


def _managed(capsule: Any) -> Any:
    """The structure that a capsule holds. Raises ArgumentTypeError, ExchangeError."""
    if type(capsule).__name__ != "PyCapsule":
        raise ArgumentTypeError(
            f"from_dlpack: argument 'source' gave no capsule; got {type(capsule).__name__}; "
            "expected an object with __dlpack__, or a capsule that one returned."
        )
    name = _capsule_name(capsule) or b""
    if name not in _FORMS:
        used = name.startswith(b"used_")
        raise ExchangeError(
            f"from_dlpack: argument 'source' is a capsule named {name.decode()!r}; expected "
            f"'dltensor' or 'dltensor_versioned'. "
            + ("A capsule can be consumed only once: ask for another." if used else "")
        )
    return _FORMS[name][0].from_address(_capsule_pointer(capsule, name))


# ---------------------------------------------------------------- giving


def capsule_of(
    array: Array,
    dtype: DType,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A capsule for the memory of ``array``, which lives until its consumer lets go of it.

    Versioned if the consumer knows version 1 or later (``max_version``), else of the older form.
    Raises ExchangeError for another device than the CPU, for a stream, and for read-only memory
    where the older form could not say that it is so.
    """
    check(
        stream in (None, -1),
        ExchangeError,
        lambda: f"__dlpack__: argument 'stream' is for other devices; got {stream}; expected None.",
    )
    check(
        dl_device is None or tuple(dl_device) == CPU_DEVICE,
        ExchangeError,
        lambda: (
            f"__dlpack__: argument 'dl_device' asks for another device; got {dl_device}; expected "
            "(1, 0), the CPU. Let the other library move the data."
        ),
    )
    is_versioned = max_version is not None and max_version[0] >= 1
    check(
        is_versioned or copy or array.flags.writeable,
        ExchangeError,
        lambda: (
            "__dlpack__: the tensor stands on read-only memory, which DLPack before 1.0 cannot "
            "say; expected max_version >= (1, 0). Use clone() first."
        ),
    )
    wide = array.view(np.uint16) if dtype is dtypes.bfloat16 else array
    if copy:
        wide = wide.copy()
    capsule = wide.__dlpack__(max_version=_NEWEST) if is_versioned else wide.__dlpack__()
    if dtype is dtypes.bfloat16:
        _managed(capsule).tensor.code = _BFLOAT16[0]
    return capsule


# ---------------------------------------------------------------- taking


class _Foreign:
    """Memory of another library: gives NumPy its elements, and lets go of it in the end."""

    __slots__ = ("__array_interface__", "capsule", "deleter", "managed")

    def __init__(self, capsule: Any, managed: Any, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface
        self.managed = ctypes.addressof(managed)
        self.deleter = _Deleter(managed.deleter) if managed.deleter else None
        name = _capsule_name(capsule)
        _rename_capsule(capsule, _FORMS[name][1])  # from here on the memory is ours to free

    def __del__(self) -> None:
        deleter = getattr(self, "deleter", None)
        if deleter is not None:
            deleter(self.managed)


def array_of(source: Any, *, copy: bool | None = None) -> Array:
    """The memory that ``source`` (an object with __dlpack__, or a capsule) shows, as an array.

    It is read-only where the producer says so. Raises ArgumentTypeError for what does not speak
    DLPack, and ExchangeError for other devices, element types that no tensor has, negative strides,
    memory that is not aligned, and a capsule that was consumed before.
    """
    capsule = _ask(source, copy)
    managed = _managed(capsule)
    major = getattr(managed, "major", 1)
    check(
        major == 1,
        ExchangeError,
        lambda: f"from_dlpack: got DLPack version {major}; expected version 1 or older.",
    )
    shown = managed.tensor
    _check_device((shown.device_type, shown.device_id))
    dtype = _TYPES.get((shown.code, shown.bits))
    if dtype is None or shown.lanes != 1:
        raise ExchangeError(
            f"from_dlpack: argument 'source' has an element type that no tensor has; got DLPack "
            f"code {shown.code}, {shown.bits} bits, {shown.lanes} lanes; expected one of "
            f"{', '.join(known.name for known in ALL_DTYPES)}."
        )
    is_readonly = bool(getattr(managed, "flags", 0) & _READ_ONLY)
    array = _array_over(capsule, managed, dtype, is_readonly)
    if copy and source is capsule:
        return array.copy()
    return array


def _ask(source: Any, copy: bool | None) -> Any:
    """A capsule from ``source``, versioned if it can."""
    if not hasattr(source, "__dlpack__"):
        return source
    if hasattr(source, "__dlpack_device__"):
        _check_device(source.__dlpack_device__())
    options: dict[str, Any] = {"max_version": _NEWEST}
    if copy is not None:
        options["copy"] = copy
    try:
        return source.__dlpack__(**options)
    except TypeError:  # a producer from before DLPack 1.0
        if copy is not None:
            raise
        return source.__dlpack__()


def _check_device(device: tuple[Any, int]) -> None:
    kind = int(device[0])
    check(
        kind == CPU_DEVICE[0],
        ExchangeError,
        lambda: (
            f"from_dlpack: argument 'source' is on another device; got DLPack device type {kind}, "
            f"number {device[1]}; expected type 1, the CPU. Move it to the CPU first."
        ),
    )


def _array_over(capsule: Any, managed: Any, dtype: DType, is_readonly: bool) -> Array:
    """The elements as an array that owns the capsule's memory."""
    shown = managed.tensor
    shape = tuple(shown.shape[: shown.ndim])
    strides = tuple(shown.strides[: shown.ndim]) if shown.strides else None
    check(
        strides is None or 0 in shape or all(step >= 0 for step in strides),
        ExchangeError,
        lambda: (
            f"from_dlpack: argument 'source' has a negative stride; got strides {strides} for "
            f"shape {shape}; expected strides >= 0. Copy it first, in its own library."
        ),
    )
    address = (shown.data or 0) + shown.byte_offset
    check(
        address % dtype.numpy.alignment == 0,
        ExchangeError,
        lambda: (
            f"from_dlpack: argument 'source' is not aligned to its element type {dtype}; got the "
            f"address {address:#x}. Copy it first, in its own library."
        ),
    )
    plain = np.dtype(np.uint16) if dtype is dtypes.bfloat16 else dtype.numpy
    is_empty = 0 in shape
    interface = {
        "data": (0 if is_empty else address, is_readonly),
        "shape": shape,
        "typestr": plain.str,
        "strides": None
        if is_empty or strides is None
        else tuple(s * plain.itemsize for s in strides),
        "version": 3,
    }
    owner = _Foreign(capsule, managed, interface)
    array = np.empty(shape, plain) if is_empty else np.asarray(owner)
    return array.view(dtype.numpy)
