"""Modules: trees of parameters with a forward function.

Owns `Module`, `Parameter` and the layers. Knows operators and the tape; must not know capture,
graphs or backends, which see a module by its structure and by `module_epoch()`.
"""

from plait.nn import functional
from plait.nn.layers import (
    GELU,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    ModuleList,
    ReLU,
    RMSNorm,
    Sequential,
    SiLU,
)
from plait.nn.module import IncompatibleKeys, Module, Parameter, module_epoch
from plait.nn.quantize import QuantizedWeights, quantize_weights
from plait.nn.stateless import functional_call
from plait.nn.transformer import (
    KeyValue,
    MultiheadAttention,
    PositionEmbedding,
    RotaryEmbedding,
    TransformerBlock,
)

__all__ = [
    "GELU",
    "Dropout",
    "Embedding",
    "IncompatibleKeys",
    "KeyValue",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "PositionEmbedding",
    "QuantizedWeights",
    "RMSNorm",
    "ReLU",
    "RotaryEmbedding",
    "Sequential",
    "SiLU",
    "TransformerBlock",
    "functional",
    "functional_call",
    "module_epoch",
    "quantize_weights",
]
