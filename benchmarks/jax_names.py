"""JAX under the names that plait and PyTorch share, as far as the workloads use them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["NAMES", "adamw", "value_and_grad"]

value_and_grad = jax.value_and_grad


def _layer_norm(x: Any, shape: tuple[int, ...], weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * weight + bias


def _cross_entropy(logits: Any, target: Any) -> Any:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)
    return -chosen.mean()


def adamw(params: Any, grads: Any, state: Any, rate: float) -> Any:
    """One step with PyTorch's defaults; state is (means, squares, count)."""
    means, squares, count = state
    count = count + 1
    means = [0.9 * m + 0.1 * g for m, g in zip(means, grads)]
    squares = [0.999 * v + 0.001 * g * g for v, g in zip(squares, grads)]
    size, root = rate / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
    params = [
        p * (1 - rate * 0.01) - size * m / (jnp.sqrt(v) / root + 1e-8)
        for p, m, v in zip(params, means, squares)
    ]
    return params, (means, squares, count)


NAMES = SimpleNamespace(
    relu=jax.nn.relu,
    sigmoid=jax.nn.sigmoid,
    softmax=jax.nn.softmax,
    sqrt=jnp.sqrt,
    log=jnp.log,
    nn=SimpleNamespace(
        functional=SimpleNamespace(
            relu=jax.nn.relu,
            gelu=lambda x: jax.nn.gelu(x, approximate=False),
            layer_norm=_layer_norm,
            linear=lambda x, weight, bias: x @ weight.T + bias,
            cross_entropy=_cross_entropy,
        )
    ),
)
