"""What the numbers of an element type can be: `finfo`, `iinfo`.

Knows element types only.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from plait.base.errors import ArgumentTypeError
from plait.tensor.dtype import DType, as_dtype, get_default_dtype

__all__ = ["finfo", "iinfo"]


class finfo:
    """Limits of a floating or complex type (of its parts); of the default type without argument.

    Attributes: bits, eps, max, min, tiny (= smallest_normal), resolution, dtype (its name). Raises
    ArgumentTypeError for other types.

    >>> from plait.tensor.dtype import bfloat16
    >>> finfo(bfloat16).eps
    0.0078125
    """

    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(self, dtype: DType | None = None) -> None:
        chosen = get_default_dtype() if dtype is None else as_dtype(dtype)
        if chosen.category < 2:
            raise ArgumentTypeError(
                f"finfo: argument 'dtype' must be floating or complex; got {chosen}. Use iinfo."
            )
        found: Any = ml_dtypes.finfo(chosen.numpy)
        self.bits: int = int(found.bits)
        self.dtype = str(found.dtype)
        self.eps = float(found.eps)
        self.max = float(found.max)
        self.min = float(found.min)
        self.tiny = self.smallest_normal = float(found.tiny)
        self.resolution = 10.0 ** -int(found.precision)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)}" for name in _FLOAT_FIELDS)
        return f"finfo({fields}, dtype={self.dtype})"


_FLOAT_FIELDS = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")


class iinfo:
    """Limits of an integer type: bits, min, max, dtype (its name).

    Raises ArgumentTypeError for other types.

    >>> from plait.tensor.dtype import int8
    >>> iinfo(int8)
    iinfo(min=-128, max=127, dtype=int8)
    """

    __slots__ = ("bits", "dtype", "max", "min")

    def __init__(self, dtype: DType) -> None:
        chosen = as_dtype(dtype)
        if not chosen.is_integral:
            raise ArgumentTypeError(
                f"iinfo: argument 'dtype' must be an integer type; got {chosen}. Use finfo."
            )
        found: Any = np.iinfo(chosen.name)
        self.bits: int = int(found.bits)
        self.dtype = chosen.name
        self.max, self.min = int(found.max), int(found.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
