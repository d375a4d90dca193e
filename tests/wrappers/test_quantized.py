"""`QuantizedTensor`: how close, how small, eager and compiled, and what refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plait
from plait import nn
from plait.base.errors import ArgumentTypeError, DtypeMismatch, MissingKernel, ShapeMismatch
from plait.wrappers import QuantizedTensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    plait.manual_seed(0)


def test_rounding_is_to_half_a_step_of_the_row() -> None:
    w = plait.randn(16, 64)
    q = QuantizedTensor.quantize(w)
    bound = w.abs().amax(1, keepdim=True) / 254 + 1e-6
    assert bool(((q.dequantize() - w).abs() <= bound).all())
    largest = q.dequantize().abs().amax(1) - w.abs().amax(1)
    assert float(largest.abs().max()) < 1e-5
    zero = QuantizedTensor.quantize(plait.zeros(2, 3))
    assert zero.dequantize().tolist() == [[0.0] * 3] * 2 and zero.tolist() == [[0.0] * 3] * 2


def test_it_takes_a_quarter_of_the_memory() -> None:
    q = QuantizedTensor.quantize(plait.randn(256, 512))
    assert q.nbytes == 4 * 256 * 512 and q.held_bytes == 256 * 512 + 4 * 256


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 32), (2, 3, 32), (32,)])
def test_a_linear_layer_runs_on_it_eager_and_compiled(shape: Any, bias: bool) -> None:
    layer = nn.Linear(32, 8, bias=bias)
    weight = layer.weight.detach().clone()
    done = nn.quantize_weights(layer)
    assert done.layers == ("weight",) and done.bytes_after < done.bytes_before / 3
    q: Any = layer.weight
    assert type(q) is QuantizedTensor and "weight" not in dict(layer.named_parameters())
    x = plait.randn(*shape)
    exact = nn.functional.linear(x, q.dequantize(), layer.bias)
    found, compiled = layer(x), plait.compile(layer, fullgraph=True)
    np.testing.assert_allclose(found.detach().numpy(), exact.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(compiled(x).detach().numpy(), exact.detach().numpy(), atol=1e-5)
    full = nn.functional.linear(x, weight, layer.bias).detach()
    step = float(weight.abs().max()) / 254
    worst = step * float(x.abs().reshape(-1, 32).sum(1).max())
    assert float((found.detach() - full).abs().max()) <= worst


def test_gradients_reach_the_input_and_the_bias() -> None:
    layer = nn.Linear(16, 4)
    nn.quantize_weights(layer)
    q: Any = layer.weight
    assert layer.bias is not None
    grads = []
    for call in (layer, plait.compile(layer, fullgraph=True)):
        x = plait.arange(32, dtype=plait.float32).reshape(2, 16).requires_grad_()
        layer.bias.grad = None
        call(x).sum().backward()
        assert x.grad is not None and layer.bias.grad is not None
        grads.append((x.grad.numpy(), layer.bias.grad.numpy()))
    want = q.dequantize().numpy().sum(0)
    for found in grads:
        np.testing.assert_allclose(found[0], np.stack([want, want]), atol=1e-5)
        np.testing.assert_allclose(found[1], [2.0] * 4)


def test_a_network_keeps_its_answers() -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    x = plait.randn(256, 64)
    want = model(x).detach()
    done = nn.quantize_weights(model)
    assert done.layers == ("0.weight", "2.weight")
    compiled = plait.compile(model, fullgraph=True)
    found = compiled(x).detach()
    error = float((found - want).abs().max()) / float(want.abs().max())
    assert error < 0.02
    agree = (found.argmax(1) == want.argmax(1)).to(plait.float32).mean()
    assert float(agree) > 0.97
    with pytest.raises(Exception, match="without a Linear layer that is not quantised"):
        nn.quantize_weights(model)


def test_autocast_converts_the_scale_alone() -> None:
    layer = nn.Linear(16, 4, bias=False)
    nn.quantize_weights(layer)
    q: Any = layer.weight
    half = q.to(plait.bfloat16)
    assert type(half) is QuantizedTensor and half.values is q.values
    assert half.scale.dtype is plait.bfloat16
    x = plait.randn(3, 16)
    with plait.autocast():
        found = layer(x)
    assert found.dtype is plait.bfloat16
    np.testing.assert_allclose(
        found.to(plait.float32).numpy(), layer(x).numpy(), atol=0.05, rtol=0.05
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turned", [False, True])
def test_products_from_both_sides(side: str, turned: bool) -> None:
    q = QuantizedTensor.quantize(plait.randn(6, 6))
    matrix: Any = q.t() if turned else q
    x = plait.randn(6, 6)
    found = matrix @ x if side == "left" else x @ matrix
    dense = matrix.dequantize()
    want = dense @ x if side == "left" else x @ dense
    np.testing.assert_allclose(found.numpy(), want.numpy(), atol=1e-5)
    both = matrix @ q
    np.testing.assert_allclose(both.numpy(), (dense @ q.dequantize()).numpy(), atol=1e-5)
    added = plait.addmm(x, x, matrix, beta=2, alpha=3)
    np.testing.assert_allclose(added.numpy(), (2 * x + 3 * (x @ dense)).numpy(), atol=1e-4)


def test_anything_else_refuses() -> None:
    q = QuantizedTensor.quantize(plait.randn(3, 3))
    for call in (lambda: q + 1, lambda: q.add_(1), lambda: q[0], q.exp, q.sum):
        with pytest.raises(MissingKernel, match=r"takes part in products .* dequantize\(\) first"):
            call()
    with pytest.raises(MissingKernel, match="argument 'self' is a QuantizedTensor"):
        plait.addmm(q, plait.ones(3, 3), plait.ones(3, 3))
    with pytest.raises(DtypeMismatch, match="expected int8 and a floating type"):
        QuantizedTensor(plait.ones(2, 2), plait.ones(2, 1))
    with pytest.raises(ShapeMismatch, match="one scale for each row or column"):
        QuantizedTensor(plait.ones(2, 2, dtype=plait.int8), plait.ones(2))
    with pytest.raises(ShapeMismatch, match="expected a floating matrix"):
        QuantizedTensor.quantize(plait.ones(2))
    with pytest.raises(ArgumentTypeError, match="Register a wrapper as a buffer"):
        nn.Parameter(q)
