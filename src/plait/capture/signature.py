"""Flattening the arguments of a call, with for each leaf the Python expression that reaches it.

Owns the walk over argument structure. Tuples, lists and dicts are walked here so that guards can
reach their leaves by plain indexing; any other pytree node (named tuples, dataclasses, registered
classes) is flattened by optree in one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optree

__all__ = ["Leaf", "Structure", "flatten_call", "label_of", "rebuild"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the arguments: its value, and the expression over the arguments that reads it."""

    value: Any
    access: str


@dataclass(frozen=True, slots=True)
class Structure:
    """A container that must look the same at the next call.

    ``kind`` is "tuple", "list", "dict" (``detail`` is its length or its keys) or "tree" (``detail``
    is the treespec; ``name`` is the variable that holds its leaves).
    """

    access: str
    kind: str
    detail: Any
    name: str = ""


def flatten_call(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Leaf], list[Structure]]:
    """Leaves and containers of a call, in a fixed order."""
    leaves: list[Leaf] = []
    structures: list[Structure] = []
    _walk(args, "args", leaves, structures)
    _walk(kwargs, "kwargs", leaves, structures)
    return leaves, structures


def _walk(value: Any, access: str, leaves: list[Leaf], structures: list[Structure]) -> None:
    cls = type(value)
    if cls is tuple or cls is list:
        structures.append(Structure(access, cls.__name__, len(value)))
        for i, item in enumerate(value):
            _walk(item, f"{access}[{i}]", leaves, structures)
    elif cls is dict and all(isinstance(k, str | int) for k in value):
        structures.append(Structure(access, "dict", tuple(value)))
        for key, item in value.items():
            _walk(item, f"{access}[{key!r}]", leaves, structures)
    elif value is None or optree.tree_is_leaf(value):
        leaves.append(Leaf(value, access))
    else:
        flat, spec = optree.tree_flatten(value, none_is_leaf=True)
        name = f"tree{len(structures)}"
        structures.append(Structure(access, "tree", spec, name))
        leaves.extend(Leaf(item, f"{name}[{i}]") for i, item in enumerate(flat))


def rebuild(value: Any, leaves: list[Any]) -> Any:
    """``value`` with its leaves, in the order of :func:`flatten_call`, popped from ``leaves``."""
    cls = type(value)
    if cls is tuple or cls is list:
        return cls(rebuild(item, leaves) for item in value)
    if cls is dict and all(isinstance(k, str | int) for k in value):
        return {key: rebuild(item, leaves) for key, item in value.items()}
    if value is None or optree.tree_is_leaf(value):
        return leaves.pop(0)
    _, spec = optree.tree_flatten(value, none_is_leaf=True)
    return optree.tree_unflatten(spec, [leaves.pop(0) for _ in range(spec.num_leaves)])


def label_of(access: str, parameter_names: tuple[str, ...]) -> str:
    """The source of a leaf by the function's own names: ``args[1]['w']`` as ``params['w']``."""
    if access.startswith("kwargs["):
        key, _, rest = access[len("kwargs[") :].partition("]")
        return key.strip("'\"") + rest
    if access.startswith("args["):
        index, _, rest = access[len("args[") :].partition("]")
        if index.isdigit() and int(index) < len(parameter_names):
            return parameter_names[int(index)] + rest
    return access
