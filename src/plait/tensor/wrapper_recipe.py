"""Recipes: how to make a wrapper again from the plain tensors that it comes to.

A compiled function sees plain tensors only. A recipe is what is left of a wrapper then: its class,
context, outer metadata and the attributes that its tensors go to, nested as the wrapper was. Knows
no graph; sizes may be symbolic, as ints, SymInts or expressions of the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from plait.base.errors import ArgumentTypeError
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, flatten_wrapper, unflatten_wrapper

__all__ = ["Recipe", "pieces_of", "rebuild_all", "recipe_of"]


class Recipe:
    """One wrapper without its tensors. ``attrs`` pairs an attribute with its own recipe, if any."""

    __slots__ = ("attrs", "cls", "context", "dtype", "shape", "strides")

    def __init__(
        self,
        cls: type[WrapperTensor],
        context: Any,
        attrs: tuple[tuple[str, Recipe | None], ...],
        shape: tuple[Any, ...],
        strides: tuple[Any, ...],
        dtype: Any,
    ) -> None:
        self.cls = cls
        self.context = context
        self.attrs = attrs
        self.shape = shape
        self.strides = strides
        self.dtype = dtype

    @property
    def count(self) -> int:
        """How many plain tensors it takes."""
        return sum(1 if inner is None else inner.count for _, inner in self.attrs)

    def paths(self) -> Iterator[tuple[str, ...]]:
        """The attributes that lead to each plain tensor, in order."""
        for name, inner in self.attrs:
            if inner is None:
                yield (name,)
            else:
                yield from ((name, *rest) for rest in inner.paths())

    def rebuild(self, pieces: Iterator[Tensor]) -> Tensor:
        """The wrapper over the next ``count`` of ``pieces``."""
        inner = {
            name: next(pieces) if recipe is None else recipe.rebuild(pieces)
            for name, recipe in self.attrs
        }
        return unflatten_wrapper(self.cls, inner, self.context, self.shape, self.strides)

    def mapped(self, fn: Callable[[Any], Any]) -> Recipe:
        """The recipe with ``fn`` applied to every size and stride."""
        return Recipe(
            self.cls,
            self.context,
            tuple((n, None if r is None else r.mapped(fn)) for n, r in self.attrs),
            tuple([fn(s) for s in self.shape]),
            tuple([fn(s) for s in self.strides]),
            self.dtype,
        )

    @property
    def is_symbolic(self) -> bool:
        """Whether some size or stride is not a plain int."""
        sizes = (*self.shape, *self.strides)
        return not all(type(s) is int for s in sizes) or any(
            r is not None and r.is_symbolic for _, r in self.attrs
        )

    def fits(self, tensor: Any) -> bool:
        """Whether ``tensor`` is a wrapper that this recipe could have been taken from."""
        if type(tensor) is not self.cls:
            return False
        names, context = flatten_wrapper(tensor)
        if names != tuple(name for name, _ in self.attrs) or context != self.context:
            return False
        return all(
            not is_nested(getattr(tensor, name)) if r is None else r.fits(getattr(tensor, name))
            for name, r in self.attrs
        )

    def __repr__(self) -> str:
        return f"Recipe({self.cls.__name__}, {', '.join(n for n, _ in self.attrs)})"


def is_nested(value: Any) -> bool:
    """Whether an inner tensor is a wrapper itself."""
    return isinstance(value, WrapperTensor)


def recipe_of(tensor: Any) -> Recipe | None:
    """The recipe of a wrapper; None for anything else."""
    if not isinstance(tensor, WrapperTensor):
        return None
    names, context = flatten_wrapper(tensor)
    if (context == context) is not True:
        raise ArgumentTypeError(
            f"{type(tensor).__name__}.__plait_flatten__: the context is a "
            f"{type(context).__name__} that does not compare equal to itself, as True; expected "
            "plain values. Tensors belong among the attributes that it names."
        )
    attrs = tuple((name, recipe_of(getattr(tensor, name))) for name in names)
    shape, strides = tuple(tensor.shape), tuple(tensor.strides)
    return Recipe(type(tensor), context, attrs, shape, strides, tensor.dtype)


def pieces_of(tensor: Tensor) -> list[Tensor]:
    """The plain tensors of a wrapper in the order of its recipe; a plain tensor alone."""
    if not isinstance(tensor, WrapperTensor):
        return [tensor]
    return [p for name in flatten_wrapper(tensor)[0] for p in pieces_of(getattr(tensor, name))]


def rebuild_all(recipes: list[Recipe | None], pieces: list[Any]) -> list[Any]:
    """What flattening by ``recipes`` came from: wrappers where there is a recipe."""
    left = iter(pieces)
    return [next(left) if recipe is None else recipe.rebuild(left) for recipe in recipes]
