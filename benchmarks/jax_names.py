"""JAX under the names that plait and PyTorch share, as far as the workloads use them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["NAMES", "value_and_grad"]

value_and_grad = jax.value_and_grad


def _layer_norm(x: Any, shape: tuple[int, ...], weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * weight + bias


def _cross_entropy(logits: Any, target: Any) -> Any:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)
    return -chosen.mean()


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
