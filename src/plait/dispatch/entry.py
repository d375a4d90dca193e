"""The computed dispatch table: which kernel an operator runs for a keyset.

Owns the precedence of kernels, one numbered function (:func:`find_kernel`), and the composition
of fallbacks into one callable per keyset (:func:`compute`). Knows no thread state and no tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from plait.base.errors import DeviceMismatch, DispatchError, MissingKernel
from plait.dispatch.keys import AliasKey as A
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import AUTOGRAD_KEYS, BACKEND_KEYS, FULL, KeySet, below, highest
from plait.dispatch.state import tls

if TYPE_CHECKING:
    from plait.dispatch.operator import Overload

__all__ = [
    "FALLBACKS",
    "FALLTHROUGH",
    "Found",
    "Kernel",
    "Specialiser",
    "below_autograd",
    "compute",
    "fallthrough",
    "find_fallback",
    "find_kernel",
]

# A fallback is a specialiser: given the operator and the keys below its own, it returns the
# callable for that operator and keyset, or None to fall through.
Specialiser = Callable[["Overload", int], "Callable[..., Any] | None"]

FALLBACKS: dict[DispatchKey, Specialiser] = {}

_BACKENDS_OF_AUTOGRAD = {
    DispatchKey.AUTOGRAD_CPU: (DispatchKey.CPU,),
    DispatchKey.AUTOGRAD_CUDA: (DispatchKey.CUDA,),
    DispatchKey.AUTOGRAD_META: (DispatchKey.META,),
    DispatchKey.AUTOGRAD_OTHER: (DispatchKey.SPARSE, DispatchKey.QUANTIZED),
}
_ABOVE_BACKENDS = FULL & ~BACKEND_KEYS & ~DispatchKey.PYTHON_DISPATCHER.mask


class Kernel:
    """A registered kernel: its function and place, and how it wants to be called."""

    __slots__ = ("calls_operators", "fn", "location", "with_keyset")

    def __init__(
        self,
        fn: Callable[..., Any],
        calls_operators: bool,
        location: str,
        with_keyset: bool = False,
    ) -> None:
        self.fn = fn
        self.calls_operators = calls_operators
        """It issues operators, which a backend kernel does below autograd."""
        self.location = location
        self.with_keyset = with_keyset
        """It takes the keyset of the call first, for `Overload.redispatch`."""


def fallthrough(*args: Any, **kwargs: Any) -> Any:
    """Registered as a kernel, it stands for none: the dispatcher goes on to the next key."""
    raise AssertionError("a fallthrough kernel is skipped, never called")


FALLTHROUGH = Kernel(fallthrough, False, "built in")


class Found(NamedTuple):
    """What a key of an operator resolves to by registration, and by which rule."""

    kernel: Kernel
    rule: str


def find_kernel(op: Overload, key: DispatchKey) -> Found | None:
    """The kernel of ``op`` at ``key`` by registration, before fallbacks; None if there is none.

    The order is that of PyTorch's ``OperatorEntry::computeDispatchTableEntryWithDebug``.
    """
    kernels = op.kernels
    is_backend = bool(BACKEND_KEYS & key.mask)
    is_autograd = bool(AUTOGRAD_KEYS & key.mask)
    # 1. A kernel registered for this very key.
    if key in kernels:
        return Found(kernels[key], "1: registered for the key")
    # 2. Composite kernels that own their gradient serve every backend, non-functional ones first.
    if is_backend:
        for alias in (A.COMPOSITE_EXPLICIT_AUTOGRAD_NON_FUNCTIONAL, A.COMPOSITE_EXPLICIT_AUTOGRAD):
            if alias in kernels:
                return Found(kernels[alias], f"2: {alias.name} serves every backend")
    # 3. A composite kernel made of operators serves backends and autograd, unless a backend kernel
    #    or an explicit composite owns the operator there.  AutogradOther stands for several
    #    backends: if one of them has a kernel, nobody can say whose gradient is meant.
    if (is_backend or is_autograd) and A.COMPOSITE_IMPLICIT_AUTOGRAD in kernels:
        owned = A.COMPOSITE_EXPLICIT_AUTOGRAD in kernels or any(
            backend in kernels for backend in _BACKENDS_OF_AUTOGRAD.get(key, ())
        )
        if key is DispatchKey.AUTOGRAD_OTHER and owned:
            if A.COMPOSITE_EXPLICIT_AUTOGRAD not in kernels:
                return Found(_ambiguous(op), "3: ambiguous between backends of AUTOGRAD_OTHER")
        elif not (is_autograd and owned):
            return Found(kernels[A.COMPOSITE_IMPLICIT_AUTOGRAD], "3: made of operators")
    # 4. The Autograd alias.
    if is_autograd and A.AUTOGRAD in kernels:
        return Found(kernels[A.AUTOGRAD], "4: AUTOGRAD serves every autograd key")
    # 5. A decomposition for batched tensors.
    batched = A.FUNCTORCH_BATCHED_DECOMPOSITION
    if key is DispatchKey.BATCHED and batched in kernels:
        return Found(kernels[batched], "5: a decomposition for batched tensors")
    return None


def find_fallback(op: Overload, key: DispatchKey) -> Specialiser | None:
    """6. The fallback of ``key``: the operator's own, else the one for all operators."""
    return op.fallbacks.get(key) or FALLBACKS.get(key)


def compute(op: Overload, keyset: int) -> Callable[..., Any]:
    """Compose the callable that ``op`` runs for ``keyset``; MissingKernel if there is none."""
    if (keyset & BACKEND_KEYS).bit_count() > 1:
        return _device_mismatch(op)
    remaining = keyset
    while (key := highest(remaining)) is not None:
        remaining = keyset & below(key)
        found = find_kernel(op, key)
        if found is not None:
            kernel = found.kernel
            if kernel.fn is fallthrough:
                continue
            fn = functools.partial(kernel.fn, KeySet(keyset)) if kernel.with_keyset else kernel.fn
            return below_autograd(fn) if kernel.calls_operators and key.mask & BACKEND_KEYS else fn
        specialiser = find_fallback(op, key)
        specialised = specialiser(op, remaining) if specialiser is not None else None
        if specialised is not None:
            return specialised
        if key.mask & BACKEND_KEYS:
            break
    raise MissingKernel(missing_message(op, keyset))


def _ambiguous(op: Overload) -> Kernel:
    """The kernel of AutogradOther where several backends could be meant: an error."""

    def ambiguous(*args: Any, **kwargs: Any) -> Any:
        raise DispatchError(
            f"{op.qualname}: AUTOGRAD_OTHER is ambiguous; got a kernel made of operators and a "
            "kernel for one of the backends that AUTOGRAD_OTHER stands for. Register a kernel for "
            "AUTOGRAD_OTHER, or make the composite kernel explicit."
        )

    return Kernel(ambiguous, False, "built in")


def _device_mismatch(op: Overload) -> Callable[..., Any]:
    """What an operator runs for tensors of several backends: the error, naming each argument."""

    def mismatch(*args: Any, **kwargs: Any) -> Any:
        placed = []
        for name, value in op.bind(args, kwargs).items():
            items = value if isinstance(value, list | tuple) else (value,)
            placed += [f"{name!r} on {t.device}" for t in items if hasattr(t, "_keys")]
        raise DeviceMismatch(
            f"{op.qualname}: the tensors lie on different devices; got {', '.join(placed)}; "
            "expected all on one. Make them on the same device."
        )

    return mismatch


def below_autograd(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A backend kernel that issues operators does so below autograd and above nothing."""

    def call(*args: Any, **kwargs: Any) -> Any:
        saved = tls.exclude
        tls.exclude = saved | _ABOVE_BACKENDS
        try:
            return fn(*args, **kwargs)
        finally:
            tls.exclude = saved

    return call


def missing_message(op: Overload, keyset: int) -> str:
    """Why there is no kernel, and what to do."""
    backends = KeySet(keyset & BACKEND_KEYS)
    if not keyset & BACKEND_KEYS:
        return (
            f"{op.qualname}: no tensor argument and no device chose a backend "
            f"(keyset {KeySet(keyset)}); pass a tensor or a 'device' argument."
        )
    known = ", ".join(k.name for k in op.kernels) or "none"
    if not op.is_defined:
        return (
            f"{op.qualname}: this definition of the operator was taken away, by destroying its "
            "library or by defining the operator again. Use the new definition; "
            f"plait.ops.{op.schema.namespace}.{op.name} always finds it."
        )
    return (
        f"{op.qualname}: no kernel for {backends}; kernels are registered for: {known}. "
        "Register one for this backend, or move the tensors to a backend that has one."
    )
