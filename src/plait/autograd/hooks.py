"""Hooks of tensors and nodes: where they are kept, and the handles that remove them.

Hooks of a leaf belong to the leaf (`Tensor._hooks`); hooks of any other tensor belong to the node
that made it, and so stay with that node when the tensor is modified in place.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

from plait.base.errors import ArgumentTypeError, ShapeMismatch

__all__ = ["HookTable", "LeafHooks", "NodeHooks", "RemovableHandle", "run_tensor_hooks"]

HookTable = dict[int, Callable[..., Any]]

_numbers = itertools.count()


class RemovableHandle:
    """What registering a hook returns; ``remove()`` takes the hook away, as does ``with``'s end."""

    __slots__ = ("_number", "_table")

    def __init__(self, table: HookTable, hook: Callable[..., Any]) -> None:
        if not callable(hook):
            raise ArgumentTypeError(
                f"register_hook: argument 'hook' is not callable; got {type(hook).__name__}."
            )
        self._table = table
        self._number = next(_numbers)
        table[self._number] = hook

    def remove(self) -> None:
        """Take the hook away; doing so twice is harmless."""
        self._table.pop(self._number, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class LeafHooks:
    """Hooks of a leaf: on its gradient before it is accumulated, and after."""

    __slots__ = ("gradient", "post_accumulate")

    def __init__(self) -> None:
        self.gradient: HookTable = {}
        self.post_accumulate: HookTable = {}


class NodeHooks:
    """Hooks of a node: per result of the forward operator, and around the node itself."""

    __slots__ = ("post", "pre", "retained", "tensor")

    def __init__(self) -> None:
        self.tensor: dict[int, HookTable] = {}
        self.retained: dict[int, weakref.ref[Any]] = {}  # tensors whose .grad is wanted
        self.pre: HookTable = {}
        self.post: HookTable = {}


def run_tensor_hooks(table: HookTable, grad: Any) -> Any:
    """Pass ``grad`` through the hooks of one tensor; a hook may replace it by a like tensor."""
    for hook in list(table.values()):
        changed = hook(grad)
        if changed is None:
            continue
        name = getattr(hook, "__name__", repr(hook))
        if not hasattr(changed, "_keys"):
            raise ArgumentTypeError(
                f"hook {name!r} returned a {type(changed).__name__}; expected a Tensor or None."
            )
        if changed.shape != grad.shape:
            raise ShapeMismatch(
                f"hook {name!r} has changed the size of value: got {tuple(changed.shape)}; "
                f"expected {tuple(grad.shape)}. Return a gradient of the same shape, or None."
            )
        grad = changed
    return grad
