"""Where wrapper subclasses went when a graph was made of plain tensors alone.

The graph sees the plain tensors of each wrapper, one after the other in its place; the tape is
traced above the wrappers. Owns the bookkeeping between the two and the descriptors of the pieces.
Knows nothing of running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from plait.aot.metadata import OutputType, ViewAndMutationMeta
from plait.base.errors import CaptureError
from plait.capture.proxy import to_expr
from plait.ir.descriptors import SubclassGetAttrAOTInput, SubclassGetAttrAOTOutput
from plait.ir.graph import Graph
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper_recipe import Recipe, pieces_of, recipe_of

__all__ = [
    "Flattened",
    "OuterOutput",
    "WrapperLayout",
    "WrapperRefused",
    "around",
    "layout_of",
    "piece_input",
    "piece_output",
    "plain_labels",
    "refuse_replaced",
]


class WrapperRefused(CaptureError):
    """What a program does with wrappers cannot be compiled; it runs eagerly, for this reason."""


class _Spec(Protocol):
    @property
    def requires_grad(self) -> bool: ...
    @property
    def is_leaf(self) -> bool: ...
    @property
    def recipe(self) -> Recipe | None: ...


@dataclass(frozen=True, slots=True)
class OuterOutput:
    """One user output: made by ``recipe``, or a plain tensor or constant without one.

    ``same_input`` and ``same_output`` are numbers of what it is the very same object as;
    ``storage_of`` is the number of the wrapper among the inputs whose storage it shares.
    """

    recipe: Recipe | None
    same_input: int | None = None
    same_output: int | None = None
    storage_of: int | None = None


@dataclass(slots=True)
class WrapperLayout:
    """The outer calling convention of a graph over plain tensors.

    ``tangents`` has for each cotangent (forward return, None), or (user output, recipe) of a
    wrapper; ``grads`` for each input that requires grad (its number, the recipe of its gradient).
    """

    inputs: list[Recipe | None]
    outputs: list[OuterOutput]
    tangents: list[tuple[int, Recipe | None]] = field(default_factory=list)
    grads: list[tuple[int, Recipe | None]] = field(default_factory=list)

    def piece_numbers(self) -> list[range]:
        """For each input, the numbers of its plain tensors among the graph's inputs."""
        return _ranges(self.inputs)

    def differentiable(
        self, results: Sequence[Any], meta: ViewAndMutationMeta
    ) -> list[tuple[int, Recipe, list[int]]]:
        """Wrappers among the outputs that take a cotangent: number, recipe, forward returns.

        WrapperRefused where they alias something, or an input with a history was written.
        """
        found = []
        numbers = _ranges([o.recipe for o in self.outputs])
        first = len(meta.mutated_inputs)
        for k, (outer, pieces) in enumerate(zip(self.outputs, numbers, strict=True)):
            if outer.recipe is None or not results[k]._requires_grad:
                continue
            if outer.same_output is not None or outer.same_input is not None:
                continue
            if outer.recipe.is_symbolic:
                raise WrapperRefused(
                    f"result {k} is a {outer.recipe.cls.__name__} that requires grad and has a "
                    "symbolic size; compile with dynamic=False"
                )
            places = []
            for p in pieces:
                info = meta.output_info[p]
                if info.output_type is not OutputType.NON_ALIAS or info.graph_idx is None:
                    raise WrapperRefused(
                        f"result {k} is a {outer.recipe.cls.__name__} that requires grad and "
                        "shares memory with an argument or another result"
                    )
                places.append(first + info.graph_idx)
            found.append((k, outer.recipe, places))
        return found


def refuse_replaced(arguments: Sequence[Tensor], given: Sequence[Sequence[Tensor]]) -> None:
    """WrapperRefused where a handler gave an argument other inner tensors: ``given`` are its first.

    Such a write changes the wrapper, not the memory, which the graph has no way to say.
    """
    for number, (argument, before) in enumerate(zip(arguments, given, strict=True)):
        now = pieces_of(argument)
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            raise WrapperRefused(
                f"the handler of input {number}, a {type(argument).__name__}, replaces its inner "
                "tensors; write into them instead"
            )


def layout_of(
    specs: Sequence[_Spec], arguments: Sequence[Tensor], results: Sequence[Any]
) -> WrapperLayout | None:
    """The layout of a finished run; None if no wrapper came in or goes out.

    WrapperRefused for a write to a wrapper that the tape would have to see.
    """
    inputs = [s.recipe for s in specs]
    recipes = [recipe_of(r) for r in results]
    if not any(inputs) and not any(recipes):
        return None
    for number, (spec, argument) in enumerate(zip(specs, arguments, strict=True)):
        if spec.recipe is None or argument._version == 0:
            continue
        if argument._requires_grad:
            name = spec.recipe.cls.__name__
            raise WrapperRefused(f"input {number}, a {name} that requires grad, is written")
    outer = [_outer(k, recipes[k], arguments, results) for k in range(len(results))]
    return WrapperLayout(inputs, outer)


def _outer(
    k: int, recipe: Recipe | None, arguments: Sequence[Tensor], results: Sequence[Any]
) -> OuterOutput:
    if recipe is None:
        return OuterOutput(None)
    result = results[k]
    same_input = next((i for i, a in enumerate(arguments) if a is result), None)
    same_output = next((i for i in range(k) if results[i] is result), None)
    shared = None
    for i, a in enumerate(arguments):
        if a._is_wrapper and a._storage is result._storage:
            shared = i
    return OuterOutput(recipe.mapped(to_expr), same_input, same_output, shared)


def _ranges(recipes: Sequence[Recipe | None]) -> list[range]:
    found, start = [], 0
    for recipe in recipes:
        count = 1 if recipe is None else recipe.count
        found.append(range(start, start + count))
        start += count
    return found


# ---------------------------------------------------------------- the flat view of a run


@dataclass(slots=True)
class Flattened:
    """Arguments and results of a run with wrappers replaced by their plain tensors."""

    arguments: list[Tensor]
    specs: list[Any]
    results: list[Any]
    declared: list[Any]
    descs: list[Any]

    @classmethod
    def of(
        cls,
        arguments: Sequence[Tensor],
        results: Sequence[Any],
        specs: Sequence[_Spec],
        captured: Graph,
        piece_spec: Callable[[], Any],
    ) -> Flattened:
        """``piece_spec()`` describes a plain tensor of a wrapper."""
        flat = cls([], [], [], [], [])
        for argument, spec in zip(arguments, specs, strict=True):
            pieces = pieces_of(argument)
            flat.arguments += pieces
            flat.specs += [spec] if spec.recipe is None else [piece_spec() for _ in pieces]
        outputs = zip(results, captured.outputs, captured.output_descs, strict=True)
        for result, declared, desc in outputs:
            recipe = recipe_of(result)
            if recipe is None:
                flat.results.append(result)
                flat.declared.append(declared)
                flat.descs.append(desc)
                continue
            flat.results += pieces_of(result)
            flat.declared += [None] * recipe.count
            flat.descs += [piece_output(desc, path) for path in recipe.paths()]
        return flat


# ---------------------------------------------------------------- descriptors


def piece_input(desc: Any, path: Iterable[str]) -> Any:
    """The descriptor of the plain tensor at ``path`` of a wrapper that ``desc`` describes."""
    for attr in path:
        desc = SubclassGetAttrAOTInput(desc, attr)
    return desc


def piece_output(desc: Any, path: Iterable[str]) -> Any:
    """As :func:`piece_input`, for an output."""
    for attr in path:
        desc = SubclassGetAttrAOTOutput(desc, attr)
    return desc


def plain_labels(captured: Graph, layout: WrapperLayout | None) -> tuple[list[str], list[str]]:
    """What each plain tensor that comes in, and each result that goes out, is to the user."""
    recipes_in = [None] * len(captured.inputs) if layout is None else layout.inputs
    outputs = captured.output_descs
    recipes_out = [None] * len(outputs) if layout is None else [o.recipe for o in layout.outputs]
    inputs: list[str] = []
    for value, recipe in zip(captured.inputs, recipes_in, strict=True):
        if value.desc is None:
            inputs.append(value.name)
        else:
            paths = [()] if recipe is None else recipe.paths()
            inputs += [piece_input(value.desc, path).expr() for path in paths]
    labels: list[str] = []
    for desc, recipe in zip(outputs, recipes_out, strict=True):
        paths = [()] if recipe is None else recipe.paths()
        labels += [piece_output(desc, path).expr() for path in paths]
    return inputs, labels


def around(make: Callable[[Any], Any], desc: Any) -> Any:
    """``make(desc)``; of a piece, the piece of what ``make`` makes of the wrapper."""
    if isinstance(desc, SubclassGetAttrAOTInput | SubclassGetAttrAOTOutput):
        return SubclassGetAttrAOTOutput(around(make, desc.base), desc.attr)
    return make(desc)
