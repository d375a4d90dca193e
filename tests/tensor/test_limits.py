"""finfo and iinfo say what PyTorch's say."""

from __future__ import annotations

from typing import Any

import pytest

import plait
from plait.base.errors import ArgumentTypeError
from plait.tensor import dtype as dt

FLOATS = [d for d in dt.ALL_DTYPES if d.category > 1]
INTEGERS = [d for d in dt.ALL_DTYPES if d.is_integral]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_finfo(torch: Any, dtype: dt.DType) -> None:
    ours, theirs = plait.finfo(dtype), torch.finfo(getattr(torch, dtype.name))
    for name in ("bits", "eps", "max", "min", "tiny", "smallest_normal", "dtype"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.resolution == pytest.approx(theirs.resolution)
    assert "eps=" in repr(ours)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)
def test_iinfo(torch: Any, dtype: dt.DType) -> None:
    ours, theirs = plait.iinfo(dtype), torch.iinfo(getattr(torch, dtype.name))
    assert (ours.bits, ours.min, ours.max, ours.dtype) == (
        theirs.bits,
        theirs.min,
        theirs.max,
        theirs.dtype,
    )
    assert repr(ours) == f"iinfo(min={theirs.min}, max={theirs.max}, dtype={dtype.name})"


def test_other_types() -> None:
    assert plait.finfo().dtype == "float32"
    with pytest.raises(ArgumentTypeError, match="iinfo"):
        plait.finfo(plait.int8)
    with pytest.raises(ArgumentTypeError, match="finfo"):
        plait.iinfo(plait.bool_)
