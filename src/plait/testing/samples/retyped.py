"""The samples of every operator once more, in another element type.

So each operator meets each type without a line of its own: two calls, one of them not contiguous,
with the float32 tensors replaced by tensors of that type, of the same layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.dispatch.dispatcher import lookup
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor, from_numpy, wrap_view
from plait.testing.samples import SampleInput, samples

__all__ = ["as_type", "retyped"]


def retyped(qualname: str, dtype: DType) -> list[SampleInput]:
    """At most two calls of the operator in ``dtype``: the first one, and one not contiguous.

    Operators without tensors get ``dtype`` as their keyword. Empty if there is nothing to replace.
    """
    calls = [s for s in samples(qualname) if _is_plain(s)]
    if not calls:
        return _with_keyword(qualname, dtype)
    turned = [s for s in calls if any(not t.is_contiguous() for t in s.tensors())]
    chosen = calls[:1] + [s for s in turned[:1] if s is not calls[0]]
    found = []
    for number, sample in enumerate(chosen):
        call = sample.replaced(lambda v: as_type(v, dtype) if isinstance(v, Tensor) else v)
        call.name = f"{dtype.name} {number}"
        found.append(call)
    return found


def _is_plain(sample: SampleInput) -> bool:
    """Whether the tensors are float32 (or indices and masks), finite, and there are elements."""
    tensors = list(sample.tensors())
    floats = [t for t in tensors if t.dtype is dtypes.float32]
    others = all(t.dtype in (dtypes.float32, dtypes.int64, dtypes.bool_) for t in tensors)
    finite = all(np.isfinite(t.numpy(force=True)).all() and t.numel() for t in floats)
    return bool(floats) and others and finite and not _dtype_of(sample)


def _dtype_of(sample: SampleInput) -> Any:
    return sample.kwargs.get("dtype")


def _with_keyword(qualname: str, dtype: DType) -> list[SampleInput]:
    if not any(a.name == "dtype" for a in lookup(qualname).schema.kwonly):
        return []
    calls = [s for s in samples(qualname) if not list(s.tensors())][:1]
    return [
        SampleInput(*first.args, name=dtype.name, **{**first.kwargs, "dtype": dtype})
        for first in calls
    ]


def as_type(tensor: Tensor, dtype: DType) -> Tensor:
    """A float32 tensor as one of ``dtype`` with the same layout; others as they are.

    Integers are rounded, unsigned ones made positive; complex numbers get an imaginary part.
    """
    if tensor.dtype is not dtypes.float32:
        return tensor
    owner = tensor.storage.owner
    assert owner is not None, "a fake has no values"
    values: Any = owner.view(np.float32)
    if dtype.is_complex:
        values = values + 1j * np.roll(values, 1) * 0.5
    elif dtype.is_integral:
        values = np.rint(values if dtype.is_signed else np.abs(values))
    elif dtype.is_bool:
        values = values > 0
    return wrap_view(from_numpy(values.astype(dtype.numpy)), tensor.layout)
