"""Checks of arguments that many shape rules share, with one wording.

Each takes the operator's name first and raises; none returns anything. They look at metadata only,
so they serve real tensors and fakes alike. Dimensions are wrapped in `tensor/layout.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.base.errors import DtypeMismatch, InvalidArgument, MissingKernel, ShapeMismatch, check
from plait.tensor import dtype as dt

__all__ = [
    "require",
    "require_floating",
    "require_index_dtype",
    "require_no_bool",
    "require_rank",
    "require_reduction",
    "require_same_dtype",
]

INDEX_DTYPES = (dt.int32, dt.int64)


def require(condition: object, message: Callable[[], str]) -> None:
    """Raise ShapeMismatch unless ``condition`` holds."""
    check(condition, ShapeMismatch, message)


def require_rank(operator: str, name: str, tensor: Any, *ranks: int) -> None:
    """Raise ShapeMismatch unless the tensor has one of ``ranks``."""
    require(
        len(tensor.shape) in ranks,
        lambda: (
            f"{operator}: argument {name!r} has the wrong rank; got shape "
            f"{tuple(tensor.shape)}; expected {' or '.join(str(r) for r in ranks)} dimensions."
        ),
    )


def require_same_dtype(operator: str, operands: Sequence[tuple[str, Any]]) -> None:
    """Raise DtypeMismatch unless all (name, tensor) operands have the first one's dtype."""
    first_name, first = operands[0]
    for name, tensor in operands[1:]:
        if tensor.dtype is not first.dtype:
            raise DtypeMismatch(
                f"{operator}: arguments {first_name!r} and {name!r} must have the same dtype; got "
                f"{first.dtype} and {tensor.dtype}. Convert one with `.to(dtype)`."
            )


def require_floating(operator: str, name: str, tensor: Any) -> None:
    """Raise MissingKernel unless the tensor is floating."""
    if not tensor.dtype.is_floating:
        raise MissingKernel(
            f"{operator}: argument {name!r} must be floating; got {tensor.dtype} (not implemented "
            "for it). Convert it with `.to(dtype)`."
        )


def require_no_bool(operator: str, name: str, tensor: Any) -> None:
    """Raise MissingKernel if the tensor is boolean."""
    if tensor.dtype.is_bool:
        raise MissingKernel(
            f"{operator}: argument {name!r} may not be boolean (not implemented for it); expected "
            "numbers. Convert it with `.to(dtype)`."
        )


def require_index_dtype(operator: str, name: str, tensor: Any, *also: dt.DType) -> None:
    """Raise DtypeMismatch unless the tensor can be an index: int32, int64, or one of ``also``."""
    allowed = (*INDEX_DTYPES, *also)
    if tensor.dtype not in allowed:
        raise DtypeMismatch(
            f"{operator}: argument {name!r} must hold indices; got {tensor.dtype}; expected "
            f"{' or '.join(d.name for d in allowed)}. Convert it with `.to(plait.int64)`."
        )


def require_reduction(operator: str, reduction: int) -> None:
    """Raise InvalidArgument unless ``reduction`` is 0 (none), 1 (mean) or 2 (sum)."""
    if reduction not in (0, 1, 2):
        raise InvalidArgument(
            f"{operator}: argument 'reduction' is unknown; got {reduction}; expected 0 (none), "
            "1 (mean) or 2 (sum)."
        )
