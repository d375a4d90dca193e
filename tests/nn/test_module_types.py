"""`Module.to`: parameters in other element types; models in half precision, compiled and eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plait
from plait import nn
from plait.base import log
from plait.base.errors import DtypeMismatch

HALVES = pytest.mark.parametrize(
    ("dtype", "step"),
    [(plait.bfloat16, 2.0**-8), (plait.float16, 2.0**-11)],
    ids=["bfloat16", "float16"],
)


class Counted(nn.Module):
    """A layer with a gradient, a buffer of each kind, and a weight that two names share."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.again = self.inner
        self.register_buffer("scale", plait.ones(3))
        self.register_buffer("calls", plait.zeros(1, dtype=plait.int64))

    def forward(self, x: Any) -> Any:
        return self.inner(x) * self.scale


@HALVES
def test_what_is_converted(dtype: Any, step: float) -> None:
    module = Counted()
    module(plait.ones(2, 3)).sum().backward()
    weight, before = module.inner.weight, module.inner.weight.detach().clone()
    assert module.to(dtype) is module
    assert module.inner.weight is module.again.weight is weight
    assert weight.dtype is dtype and weight.requires_grad and weight.is_leaf
    assert weight.grad.dtype is dtype and weight.grad.tolist() == [[2, 2, 2]] * 3
    assert (module.scale.dtype, module.calls.dtype) == (dtype, plait.int64)
    assert weight.tolist() == before.to(dtype).tolist()
    module.to("float64")
    assert {p.dtype for p in module.parameters()} == {plait.float64}


def test_integers_are_refused() -> None:
    with pytest.raises(DtypeMismatch, match=r"Module.to: argument 'dtype' is plait.int8"):
        nn.Linear(2, 2).to(plait.int8)


def test_compiled_code_sees_the_new_type() -> None:
    layer, x = nn.Linear(4, 2), plait.ones(3, 4)
    call = plait.compile(lambda x: layer(x.to(layer.weight.dtype)))
    assert call(x).dtype is plait.float32
    layer.to(plait.bfloat16)
    out = call(x)
    assert out.dtype is plait.bfloat16
    assert out.tolist() == layer(x.to(plait.bfloat16)).tolist()


def test_an_optimiser_keeps_its_parameters() -> None:
    layer = nn.Linear(4, 2)
    optimizer = plait.optim.SGD(layer.parameters(), lr=1.0)
    layer.to(plait.bfloat16)
    before = layer.bias.tolist()
    layer(plait.ones(1, 4, dtype=plait.bfloat16)).sum().backward()
    optimizer.step()
    assert layer.bias.dtype is plait.bfloat16
    expected = plait.tensor(before, dtype=plait.bfloat16) - 1
    assert layer.bias.tolist() == expected.tolist()


@HALVES
def test_a_transformer_block_in_half_precision(dtype: Any, step: float) -> None:
    plait.manual_seed(0)
    block = nn.TransformerBlock(32, 4).to(dtype)
    x = plait.randn(2, 6, 32, dtype=dtype)

    def loss(x: Any) -> Any:
        return block(x).to(plait.float32).square().mean()

    log.clear()
    found = []
    for call in (loss, plait.compile(loss)):
        block.zero_grad()
        value = call(x)
        value.backward()
        grads = [p.grad.to(plait.float32).numpy() for p in block.parameters()]
        found.append((value.item(), grads))
    (eager, wanted), (native, got) = found
    assert not log.events("fallback")
    assert abs(native - eager) <= 8 * step * abs(eager)
    for ours, own in zip(got, wanted, strict=True):
        assert np.abs(ours - own).max() <= 16 * step * np.abs(own).max()
