"""Modules: trees of parameters with a forward function.

Owns `Module`, `Parameter` and the layers. Knows operators and the tape; must not know capture,
graphs or backends, which see a module by its structure and by `module_epoch()`.
"""

from plait.nn import functional
from plait.nn.layers import GELU, Dropout, LayerNorm, Linear, ReLU, Sequential
from plait.nn.module import IncompatibleKeys, Module, Parameter, module_epoch
from plait.nn.stateless import functional_call

__all__ = [
    "GELU",
    "Dropout",
    "IncompatibleKeys",
    "LayerNorm",
    "Linear",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "module_epoch",
    "functional",
    "functional_call",
]
