"""Tensors on the meta device: metadata without memory, through the same shape rules."""

from __future__ import annotations

import pytest

import plait
from plait.base.errors import DataDependentError, DeviceMismatch


def meta(*shape: int, requires_grad: bool = False) -> plait.Tensor:
    return plait.ones(*shape, device="meta", requires_grad=requires_grad)


def test_operators_give_metadata() -> None:
    x = meta(4, 3)
    assert x.device.type == "meta" and x.shape == (4, 3)
    y = plait.softmax(x @ meta(3, 5), -1).sum(0)
    assert y.shape == (5,) and y.device.type == "meta" and y.dtype is plait.float32
    assert x.t().stride() == (1, 3) and x.t().storage is x.storage
    assert x.add_(1.0) is x and x._version == 1


def test_errors_are_those_of_the_shape_rules() -> None:
    with pytest.raises(RuntimeError, match="broadcast"):
        meta(3) + meta(4)


def test_data_cannot_be_read() -> None:
    with pytest.raises(DataDependentError):
        meta(1).item()


def test_the_tape_follows_metadata() -> None:
    x = meta(4, 3, requires_grad=True)
    (x * x).sum().backward()
    assert x.grad is not None and x.grad.shape == (4, 3) and x.grad.device.type == "meta"


def test_mixed_devices_name_every_argument() -> None:
    with pytest.raises(DeviceMismatch, match=r"aten::add.Tensor.*'self' on cpu, 'other' on meta"):
        plait.ones(2) + meta(2)
    with pytest.raises(DeviceMismatch, match="cat"):
        plait.cat([plait.ones(2), meta(2)])
    assert (plait.ones(2) + plait.ones(2)).tolist() == [2.0, 2.0]
