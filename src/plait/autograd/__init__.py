"""Reverse-mode differentiation: the tape, the engine that walks it, and user-defined functions."""

from plait.autograd import methods as _methods  # attaches backward, register_hook, ... to Tensor
from plait.autograd import record as _record  # registers the Autograd and ADInplaceOrView layers
from plait.autograd.function import Function, once_differentiable
from plait.autograd.functional import backward, grad
from plait.autograd.grad_mode import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from plait.autograd.graph import Node, attach
from plait.autograd.saved import SavedTensor

__all__ = [
    "Function",
    "Node",
    "SavedTensor",
    "attach",
    "backward",
    "enable_grad",
    "grad",
    "is_grad_enabled",
    "no_grad",
    "once_differentiable",
    "set_grad_enabled",
]
del _methods, _record
