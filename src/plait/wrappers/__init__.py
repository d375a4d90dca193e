"""Wrapper subclasses that are useful as they are: quantised weights, and tensors with a mask."""

from plait.wrappers.masked import MaskedTensor
from plait.wrappers.quantized import QuantizedTensor

__all__ = ["MaskedTensor", "QuantizedTensor"]
