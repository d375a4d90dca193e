"""Which element type Python data gets when it becomes a tensor.

Knows Python numbers, sequences, arrays and (by their fields) tensors; makes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from plait.base.errors import ArgumentTypeError
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.promotion import promote

__all__ = ["infer_dtype"]


def infer_dtype(data: Any) -> DType:
    """The element type `tensor(data)` gets. Raises ArgumentTypeError for what is no number."""
    found: DType | None = None
    for leaf in set(_leaf_dtypes(data)):
        found = leaf if found is None else promote(found, leaf)
    return dtypes.get_default_dtype() if found is None else found


def _leaf_dtypes(data: Any) -> Iterator[DType]:
    """Element types met in nested sequences, each type of Python value once per sequence."""
    if hasattr(data, "_read_data"):  # a Tensor
        yield data.dtype
    elif isinstance(data, np.ndarray | np.generic):
        yield dtypes.from_numpy(data.dtype)
    elif not isinstance(data, list | tuple | range):
        yield _dtype_of_class(type(data), data)
    else:
        kinds = set(map(type, data))
        nested = tuple(kind for kind in kinds if _has_items(kind))
        for kind in kinds.difference(nested):
            yield _dtype_of_class(kind, data)
        if nested:
            for item in _of_class(data, nested):
                yield from _leaf_dtypes(item)


def _has_items(kind: type) -> bool:
    """Whether values of this class are looked into rather than taken as one number."""
    return issubclass(kind, list | tuple | range | np.ndarray) or hasattr(kind, "_read_data")


def _of_class(items: Iterable[Any], classes: tuple[type, ...]) -> Iterator[Any]:
    return (item for item in items if isinstance(item, classes))


def _dtype_of_class(kind: type, data: Any) -> DType:
    """The element type for values of a Python class."""
    if issubclass(kind, np.generic):
        return dtypes.from_numpy(np.dtype(kind))
    if issubclass(kind, bool):
        return dtypes.bool_
    if issubclass(kind, int) or (hasattr(kind, "__index__") and not issubclass(kind, str)):
        return dtypes.int64
    if issubclass(kind, float):
        return dtypes.get_default_dtype()
    if issubclass(kind, complex):
        return dtypes.to_complex(dtypes.get_default_dtype())
    scalar_type = np.dtype(kind) if hasattr(kind, "dtype") else None  # ml_dtypes scalars
    if scalar_type is not None and scalar_type in dtypes.FROM_NUMPY:
        return dtypes.FROM_NUMPY[scalar_type]
    raise ArgumentTypeError(
        f"tensor: argument 'data' holds a {kind.__name__}; got {_shortened(data)}; expected "
        "numbers, arrays, tensors, or nested sequences of them. (Could not infer dtype)"
    )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
