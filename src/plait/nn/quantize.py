"""Weights of linear layers as 8-bit integers. Knows layers; the arithmetic is the tensor's."""

from __future__ import annotations

from typing import NamedTuple

from plait.base.errors import InvalidArgument
from plait.nn.layers import Linear
from plait.nn.module import Module
from plait.wrappers.quantized import QuantizedTensor

__all__ = ["QuantizedWeights", "quantize_weights"]


class QuantizedWeights(NamedTuple):
    """What :func:`quantize_weights` did: names of the layers, bytes of their weights."""

    layers: tuple[str, ...]
    bytes_before: int
    bytes_after: int


def quantize_weights(module: Module) -> QuantizedWeights:
    """Replace the weight of every `Linear` in ``module`` by a `QuantizedTensor`, in place.

    The weight becomes a buffer: it is no longer trained. InvalidArgument if there is no such layer.

    >>> from plait import nn
    >>> quantize_weights(nn.Linear(256, 128))
    QuantizedWeights(layers=('weight',), bytes_before=131072, bytes_after=33280)
    """
    names, before, after = [], 0, 0
    for name, layer in module.named_modules():
        if not isinstance(layer, Linear) or isinstance(layer.weight, QuantizedTensor):
            continue
        weight = layer.weight
        quantized = QuantizedTensor.quantize(weight)
        before, after = before + int(weight.nbytes), after + quantized.held_bytes
        del layer.weight
        layer.register_buffer("weight", quantized)
        names.append(f"{name}.weight" if name else "weight")
    if not names:
        raise InvalidArgument(
            f"quantize_weights: argument 'module' is a {type(module).__name__} without a Linear "
            "layer that is not quantised yet; expected at least one."
        )
    return QuantizedWeights(tuple(names), before, after)
