"""Element types: the singletons, their NumPy counterparts, and the default floating type.

Knows NumPy's dtypes and nothing about tensors. Promotion between types lives in `promotion`.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from plait.base.errors import ArgumentTypeError, DtypeMismatch

__all__ = [
    "ALL_DTYPES",
    "DType",
    "as_dtype",
    "bfloat16",
    "bool_",
    "by_name",
    "complex64",
    "complex128",
    "float16",
    "float32",
    "float64",
    "from_numpy",
    "get_default_dtype",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_name",
    "set_default_dtype",
    "to_complex",
    "to_real",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


class DType:
    """One element type. Compared by identity; copying and pickling give the singleton back.

    `priority` orders the types inside their category (bool < integer < floating < complex), wider
    is greater; `category` is 0, 1, 2, 3 in that order.
    """

    __slots__ = (
        "category",
        "is_bool",
        "is_complex",
        "is_floating",
        "is_integral",
        "is_signed",
        "itemsize",
        "name",
        "numpy",
        "priority",
    )

    def __init__(self, name: str, numpy_type: object, category: int, priority: int) -> None:
        self.name = name
        self.numpy: np.dtype[np.generic] = np.dtype(numpy_type)  # type: ignore[call-overload]
        self.itemsize: int = self.numpy.itemsize
        self.category = category
        self.priority = priority
        self.is_bool = category == 0
        self.is_integral = category == 1
        self.is_floating = category == 2
        self.is_complex = category == 3
        self.is_signed = category > 1 or (category == 1 and not name.startswith("u"))

    @property
    def is_floating_point(self) -> bool:
        """PyTorch's name for `is_floating`."""
        return self.is_floating

    def __repr__(self) -> str:
        return f"plait.{self.name}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return by_name, (self.name,)

    def __copy__(self) -> DType:
        return self

    def __deepcopy__(self, memo: object) -> DType:
        return self


# fmt: off
bool_      = DType("bool_",      np.bool_,           0, 0)
uint8      = DType("uint8",      np.uint8,           1, 1)
int8       = DType("int8",       np.int8,            1, 2)
uint16     = DType("uint16",     np.uint16,          1, 3)
int16      = DType("int16",      np.int16,           1, 4)
uint32     = DType("uint32",     np.uint32,          1, 5)
int32      = DType("int32",      np.int32,           1, 6)
uint64     = DType("uint64",     np.uint64,          1, 7)
int64      = DType("int64",      np.int64,           1, 8)
float16    = DType("float16",    np.float16,         2, 9)
bfloat16   = DType("bfloat16",   ml_dtypes.bfloat16, 2, 10)
float32    = DType("float32",    np.float32,         2, 11)
float64    = DType("float64",    np.float64,         2, 12)
complex64  = DType("complex64",  np.complex64,       3, 13)
complex128 = DType("complex128", np.complex128,      3, 14)
# fmt: on

ALL_DTYPES: tuple[DType, ...] = (
    bool_,
    uint8,
    int8,
    uint16,
    int16,
    uint32,
    int32,
    uint64,
    int64,
    float16,
    bfloat16,
    float32,
    float64,
    complex64,
    complex128,
)

_BY_NAME = {dtype.name: dtype for dtype in ALL_DTYPES} | {
    "bool": bool_,
    "half": float16,
    "float": float32,
    "double": float64,
    "cfloat": complex64,
    "cdouble": complex128,
    "long": int64,
    "int": int32,
    "short": int16,
}

# Keyed by the dtype object and by its type; a hit on the object is one dict lookup.
FROM_NUMPY: dict[object, DType] = {dtype.numpy: dtype for dtype in ALL_DTYPES}


def by_name(name: str) -> DType:
    """Return the type called `name` ("float32", also "bool" and PyTorch's "float", "long", ...)."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ArgumentTypeError(
            f"dtype: unknown element type {name!r}; expected one of "
            f"{', '.join(dtype.name for dtype in ALL_DTYPES)}."
        ) from None


def is_name(value: object) -> bool:
    """Whether `value` is the name of an element type."""
    return isinstance(value, str) and value in _BY_NAME


def from_numpy(dtype: object) -> DType:
    """Return the element type of a NumPy dtype (or anything `np.dtype` accepts).

    Raises ArgumentTypeError for types that no tensor can hold (objects, strings, byte-swapped).
    """
    found = FROM_NUMPY.get(dtype)
    if found is None:
        converted: np.dtype[np.generic] = np.dtype(dtype)  # type: ignore[call-overload]
        found = FROM_NUMPY.get(converted)
        if found is None or not converted.isnative:
            raise ArgumentTypeError(
                f"from_numpy: cannot make a tensor of NumPy type {converted}; expected one of "
                f"{', '.join(known.name for known in ALL_DTYPES)} in native byte order. "
                "Convert the array first with array.astype(...)."
            )
    return found


_PYTHON_TYPES: dict[object, DType] = {bool: bool_, int: int64, complex: complex64}


def as_dtype(value: object) -> DType:
    """The element type meant by a DType, its name, a NumPy dtype, or bool, int, float, complex.

    Raises ArgumentTypeError for anything else.
    """
    if isinstance(value, DType):
        return value
    if value is float:
        return get_default_dtype()
    if isinstance(value, type) and value in _PYTHON_TYPES:
        return _PYTHON_TYPES[value]
    if isinstance(value, str):
        return by_name(value)
    if isinstance(value, np.dtype | type):
        return from_numpy(value)
    raise ArgumentTypeError(
        f"dtype: expected an element type such as plait.float32; got {value!r}."
    )


_default: list[DType] = [float32]


def get_default_dtype() -> DType:
    """Return the floating type that Python floats get (float32 unless changed)."""
    return _default[0]


def set_default_dtype(dtype: DType) -> None:
    """Set the floating type that Python floats get. Raises DtypeMismatch if not floating."""
    if not isinstance(dtype, DType):
        raise ArgumentTypeError(
            f"set_default_dtype: argument 'dtype' must be a plait dtype; got {dtype!r}."
        )
    if not dtype.is_floating:
        raise DtypeMismatch(
            f"set_default_dtype: argument 'dtype' must be floating; got {dtype}; "
            "expected float16, bfloat16, float32 or float64."
        )
    _default[0] = dtype


def to_complex(dtype: DType) -> DType:
    """Return the complex type whose parts hold `dtype` (complex types return themselves)."""
    if dtype.is_complex:
        return dtype
    return complex128 if dtype is float64 else complex64


def to_real(dtype: DType) -> DType:
    """Return the type of the parts of a complex type (other types return themselves)."""
    if not dtype.is_complex:
        return dtype
    return float64 if dtype is complex128 else float32
