"""Dispatch keys in priority order, and the alias keys that stand for groups of them.

Owns the order. A greater key has higher priority and is asked first. Knows nothing of operators,
tensors or tables. The order follows PyTorch's ``DispatchKey`` (functionality first, then backend).
"""

from __future__ import annotations

from enum import IntEnum, unique

__all__ = ["ALIAS_KEYS", "AliasKey", "DispatchKey", "alias_members"]


@unique
class DispatchKey(IntEnum):
    """A layer of the dispatcher; its value is its bit number, and its priority."""

    # Backends: where the memory is.
    META = 0
    CPU = 1
    CUDA = 2
    SPARSE = 3
    QUANTIZED = 4
    NESTED = 5
    # Below autograd.
    BACKEND_SELECT = 8
    FAKE = 9  # reserved name: fakes are a mode at the Python key
    PYTHON = 10
    FUNCTORCH_BACK = 11
    FUNCTIONALIZE = 12  # reserved name: functionalisation is a mode at the Python key
    CONJUGATE = 13
    NEGATIVE = 14
    ZERO_TENSOR = 15
    ADINPLACE_OR_VIEW = 16
    # Autograd, one per backend.
    AUTOGRAD_OTHER = 18
    AUTOGRAD_META = 19
    AUTOGRAD_CPU = 20
    AUTOGRAD_CUDA = 21
    # Above autograd.
    TRACER = 24
    AUTOCAST_CPU = 25
    AUTOCAST_CUDA = 26
    BATCHED = 28
    FUNCTORCH_GRAD_WRAPPER = 29
    DEFERRED_INIT = 30
    PYTHON_TLS_SNAPSHOT = 31
    FUNCTORCH_FRONT = 32
    PRE_DISPATCH = 33
    PYTHON_DISPATCHER = 34

    @property
    def mask(self) -> int:
        """The keyset holding this key alone."""
        return 1 << self.value


class AliasKey(IntEnum):
    """A name for several dispatch keys; the value orders the precedence between alias keys."""

    COMPOSITE_EXPLICIT_AUTOGRAD_NON_FUNCTIONAL = 100
    COMPOSITE_EXPLICIT_AUTOGRAD = 101
    COMPOSITE_IMPLICIT_AUTOGRAD = 102
    AUTOGRAD = 103
    FUNCTORCH_BATCHED_DECOMPOSITION = 104


_BACKENDS = (DispatchKey.META, DispatchKey.CPU, DispatchKey.CUDA, DispatchKey.SPARSE,
             DispatchKey.QUANTIZED, DispatchKey.NESTED)  # fmt: skip
_AUTOGRAD = (DispatchKey.AUTOGRAD_OTHER, DispatchKey.AUTOGRAD_META, DispatchKey.AUTOGRAD_CPU,
             DispatchKey.AUTOGRAD_CUDA)  # fmt: skip

ALIAS_KEYS: dict[AliasKey, tuple[DispatchKey, ...]] = {
    AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD_NON_FUNCTIONAL: _BACKENDS,
    AliasKey.COMPOSITE_EXPLICIT_AUTOGRAD: _BACKENDS,
    AliasKey.COMPOSITE_IMPLICIT_AUTOGRAD: _BACKENDS + _AUTOGRAD,
    AliasKey.AUTOGRAD: _AUTOGRAD,
    AliasKey.FUNCTORCH_BATCHED_DECOMPOSITION: (DispatchKey.BATCHED,),
}


def alias_members(key: AliasKey) -> tuple[DispatchKey, ...]:
    """The run-time keys that ``key`` stands for."""
    return ALIAS_KEYS[key]
