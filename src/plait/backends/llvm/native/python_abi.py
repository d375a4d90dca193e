"""What generated code uses of CPython and NumPy: struct layouts, C functions, and builtins made
of it.

NumPy's array struct and C function table are public and stable; the layout is checked once
against a real array. Must not know plans.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from plait.backends.llvm.native.jit import address_of
from plait.base.errors import InternalError, check

__all__ = ["ArrayFields", "array_fields", "identity", "imports", "make_builtin", "type_number"]

METH_FASTCALL = 0x80
_ARRAY_NEW = 93  # index of PyArray_New in NumPy's table of C functions
_PYTHON_FUNCTIONS = (
    "PyTuple_New", "PyTuple_SetItem", "Py_DecRef", "PyLong_AsLongLong", "PyLong_FromLongLong",
    "PyErr_Occurred", "PyErr_SetString", "PyObject_CallOneArg", "PyEval_SaveThread",
    "PyEval_RestoreThread",
)  # fmt: skip


class ArrayFields:
    """Byte offsets in NumPy's array struct, and of the type in every Python object."""

    __slots__ = ("data", "dimensions", "object_type", "rank")

    def __init__(self) -> None:
        head = object.__basicsize__
        self.object_type = head - ctypes.sizeof(ctypes.c_void_p)
        self.data = head
        self.rank = head + 8
        self.dimensions = head + 16

    def agrees_with(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether a real array looks as expected."""

        def word(offset: int) -> int:
            return ctypes.c_size_t.from_address(id(array) + offset).value

        if word(self.object_type) != id(np.ndarray) or word(self.data) != array.ctypes.data:
            return False
        if ctypes.c_int.from_address(id(array) + self.rank).value != array.ndim:
            return False
        dimensions = (ctypes.c_ssize_t * array.ndim).from_address(word(self.dimensions))
        return bool(tuple(dimensions) == array.shape)


@functools.cache
def array_fields() -> ArrayFields:
    """The offsets, checked."""
    fields = ArrayFields()
    check(
        fields.agrees_with(np.zeros((3, 5, 7))[1:, :, 2:]),
        InternalError,
        lambda: f"native: NumPy {np.__version__} does not lay out its arrays as expected.",
    )
    return fields


def _numpy_functions() -> Any:
    """NumPy's table of C functions, from its capsule."""
    extension = importlib.import_module("numpy._core._multiarray_umath")
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get(extension._ARRAY_API, None)
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))


@functools.cache
def imports() -> dict[str, int]:
    """Addresses of the symbols that entries may import."""
    found = {name: address_of(getattr(ctypes.pythonapi, name)) for name in _PYTHON_FUNCTIONS}
    found["PyArray_New"] = _numpy_functions()[_ARRAY_NEW]
    found["PyArray_Type"] = id(np.ndarray)
    found["plait_type_error"] = id(TypeError)
    return found


def identity() -> str:
    """What drivers assume of this interpreter and NumPy; part of the key of their code."""
    fields = array_fields()
    offsets = (fields.object_type, fields.data, fields.rank, fields.dimensions)
    numpy_major = np.__version__.partition(".")[0]
    return f"{sys.implementation.cache_tag}, numpy {numpy_major}, arrays {offsets}"


def type_number(dtype: Any) -> int:
    """NumPy's number of a dtype in this process."""
    return int(np.dtype(dtype).num)


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_kept: list[_MethodDef] = []


def make_builtin(name: str, address: int, bound: object) -> Callable[..., Any]:
    """A builtin function object whose code is `PyObject *f(PyObject *bound, PyObject **,
    Py_ssize_t)`.
    """
    definition = _MethodDef(name.encode(), address, METH_FASTCALL, None)
    _kept.append(definition)  # the function object points into it
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p],
    )
    function: Callable[..., Any] = new(ctypes.addressof(definition), bound, None)
    return function
