"""What `CustomOpDef` offers, for an operator that is given by name, overload or definition.

``lib`` ties a registration to the lifetime of a `Library`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.dispatch.operator import Overload
from plait.library.custom_op import CustomOpDef, definition_of
from plait.library.libraries import Library
from plait.tensor.dtype import DType

__all__ = [
    "register_autocast",
    "register_autograd",
    "register_effect",
    "register_fake",
    "register_kernel",
    "register_plait_dispatch",
    "register_vmap",
]

Operator = str | Overload | CustomOpDef


def register_kernel(
    op: Operator,
    device_types: str | Sequence[str] | None,
    fn: Callable[..., Any] | None = None,
    /,
    *,
    lib: Library | None = None,
) -> Any:
    """As `CustomOpDef.register_kernel`; without ``fn``, a decorator."""
    if fn is None:
        return lambda body: register_kernel(op, device_types, body, lib=lib) or body
    definition = definition_of(op)
    before = dict(definition.op.kernels)
    definition.register_kernel(device_types, fn)
    if lib is not None:
        lib.on_destroy(lambda: _restore(definition.op, before))
    return fn


def _restore(op: Overload, kernels: dict[Any, Any]) -> None:
    op.kernels.clear()
    op.kernels.update(kernels)
    op.invalidate()


def register_fake(
    op: Operator, fn: Callable[..., Any] | None = None, /, *, lib: Library | None = None
) -> Any:
    """As `CustomOpDef.register_fake`; without ``fn``, a decorator."""
    if fn is None:
        return lambda body: register_fake(op, body, lib=lib) or body
    definition = definition_of(op)
    before = definition.op.fake_rule
    definition.register_fake(fn)
    if lib is not None:
        lib.on_destroy(lambda: setattr(definition.op, "fake_rule", before))
    return fn


def register_autograd(
    op: Operator,
    backward: Callable[..., Any],
    /,
    *,
    setup_context: Callable[..., Any] | None = None,
) -> None:
    """As `CustomOpDef.register_autograd`."""
    definition_of(op).register_autograd(backward, setup_context=setup_context)


def register_vmap(op: Operator, fn: Callable[..., Any] | None = None, /) -> Any:
    """As `CustomOpDef.register_vmap`; without ``fn``, a decorator."""
    if fn is None:
        return lambda body: register_vmap(op, body) or body
    return definition_of(op).register_vmap(fn)


def register_autocast(op: Operator, device_type: str, cast_inputs: DType, /) -> None:
    """As `CustomOpDef.register_autocast`."""
    definition_of(op).register_autocast(device_type, cast_inputs)


def register_plait_dispatch(
    op: Operator, cls: type, fn: Callable[..., Any] | None = None, /
) -> Any:
    """As `CustomOpDef.register_plait_dispatch`; without ``fn``, a decorator."""
    if fn is None:
        return lambda body: register_plait_dispatch(op, cls, body) or body
    return definition_of(op).register_plait_dispatch(cls, fn)


def register_effect(op: Operator, kind: str | None, /) -> None:
    """As `CustomOpDef.register_effect`."""
    definition_of(op).register_effect(kind)
