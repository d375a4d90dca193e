"""Running a compiled function that takes or returns wrapper subclasses.

The graph is one over plain tensors; here wrappers are taken apart before it and put together after
it, and the tape above them gets a node whose cotangents and gradients are wrappers again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.aot.donation import Donation
from plait.aot.metadata import ViewAndMutationMeta
from plait.aot.runtime import BackwardProgram, Compiled, CompiledBackward, Runtime
from plait.aot.wrapper_layout import WrapperLayout
from plait.autograd.graph import result_meta, set_history
from plait.base.errors import AutogradError, InplaceError
from plait.ir.graph import Graph
from plait.ir.interpret import symbol_values
from plait.symbolic.expr import Expr
from plait.tensor.storage import Storage
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import is_wrapper
from plait.tensor.wrapper_recipe import Recipe, pieces_of, rebuild_all

__all__ = ["WrapperBackward", "WrapperRuntime"]


class WrapperBackward(CompiledBackward):
    """The tape node of one call, above its wrappers."""

    __slots__ = ("layout", "watched")

    layout: WrapperLayout
    watched: list[tuple[Storage, int, str]]
    """Storages of wrappers whose inner tensors are saved, with the version they had, and of what.

    A write to a wrapper is counted there, not by its inner tensors.
    """

    def name(self) -> str:
        return "CompiledBackward"

    def apply(self, grads: tuple[Tensor | None, ...]) -> Sequence[Tensor | None]:
        for storage, version, what in self.watched:
            if storage.version != version:
                raise InplaceError(
                    f"{self.name()}: one of the variables needed for gradient computation has been "
                    f"modified by an inplace operation; got {what} at version {storage.version}; "
                    f"expected version {version}, at which it was saved. Write into a clone."
                )
        found = list(super().apply(grads))
        recipes = [recipe for _, recipe in self.layout.grads]
        return rebuild_all(recipes, found)

    def tangents(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        flat: list[Tensor] = []
        for number, (grad, (_, recipe)) in enumerate(zip(grads, self.layout.tangents, strict=True)):
            if recipe is None:
                if grad is not None and grad._is_wrapper:
                    raise _wrong_tangent(number, grad, "a plain tensor, as its output is")
                flat.append(self.tangent(len(flat), grad, self._shape(number)))
                continue
            pieces: list[Any] = [None] * recipe.count
            if grad is not None:
                pieces = list(pieces_of(_coerced(number, grad, recipe)))
            for piece in pieces:
                place = len(flat)
                flat.append(self.tangent(place, piece, _ints(self.program.tangents[place].shape)))
        return flat


def _ints(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple([int(size) for size in shape])


def _coerced(number: int, grad: Tensor, recipe: Recipe) -> Tensor:
    """``grad`` as a wrapper that fits ``recipe``, by the class's own hook if it must be."""
    if recipe.fits(grad):
        return grad
    made = recipe.cls.__plait_coerce_tangent__(grad, recipe.context)
    if made is None or not recipe.fits(made):
        context = "" if recipe.context is None else f" with context {recipe.context!r}"
        raise _wrong_tangent(number, grad, f"a {recipe.cls.__name__}{context}, as its output is")
    return made


def _wrong_tangent(number: int, grad: Tensor, expected: str) -> AutogradError:
    return AutogradError(
        f"backward: the cotangent of differentiable output {number} of a compiled function has "
        f"another class than when it was compiled; got a {type(grad).__name__} of shape "
        f"{tuple(grad.shape)}; expected {expected}. Pass a gradient of that class, or define "
        "__plait_coerce_tangent__."
    )


class _Call(list[Any]):
    """The plain inputs of one call, with the outer ones and the node made for it."""

    outer: Sequence[Tensor] = ()
    node: WrapperBackward | None = None
    saved: frozenset[int] = frozenset()  # ids of returned tensors that are saved too


class WrapperRuntime(Runtime):
    """A runtime over plain tensors, called with wrappers."""

    def __init__(
        self,
        meta: ViewAndMutationMeta,
        forward_graph: Graph,
        forward: Compiled,
        backward: BackwardProgram | None,
        donation: Donation,
        layout: WrapperLayout,
    ) -> None:
        super().__init__(meta, forward_graph, forward, backward, donation)
        self.layout = layout
        numbers = layout.piece_numbers()
        self._written = [
            i
            for i, recipe in enumerate(layout.inputs)
            if recipe is not None and any(p in meta.mutated_inputs for p in numbers[i])
        ]
        saved = [] if backward is None else backward.saved_is_input
        self._saved_inputs = [
            i
            for i, recipe in enumerate(layout.inputs)
            if recipe is not None and any(p in saved for p in numbers[i])
        ]
        recipes = [o.recipe for o in layout.outputs]
        self._sizes_vary = any(r is not None and r.is_symbolic for r in recipes)
        self._flat_run, self.run = self.run, self._run_outer

    def _run_outer(self, inputs: Sequence[Any]) -> list[Any]:
        call = _Call(piece for tensor in inputs for piece in pieces_of(tensor))
        call.outer = inputs
        flat = self._flat_run(call)
        for i in self._written:
            inputs[i].storage.version += 1
        outputs = self._rewrapped(call, list(flat))
        if call.node is not None:
            self._attach(call, outputs)
        return outputs

    def _rewrapped(self, call: _Call, flat: list[Any]) -> list[Any]:
        recipes = [o.recipe for o in self.layout.outputs]
        if self._sizes_vary:
            symbols = symbol_values(self.forward_graph, call)

            def known(size: Any) -> Any:
                return size.evaluate(symbols) if isinstance(size, Expr) else size

            recipes = [None if r is None else r.mapped(known) for r in recipes]
        outputs = rebuild_all(recipes, flat)
        for k, outer in enumerate(self.layout.outputs):
            if outer.same_input is not None:
                outputs[k] = call.outer[outer.same_input]
            elif outer.same_output is not None:
                outputs[k] = outputs[outer.same_output]
            elif outer.storage_of is not None:
                outputs[k]._storage = call.outer[outer.storage_of].storage
        return outputs

    def _record(
        self, inputs: Sequence[Tensor], returns: list[Any], symbols: dict[str, Any]
    ) -> None:
        """Make the tape's node; plain returns get their history here, wrappers when they exist."""
        assert isinstance(inputs, _Call)
        node = WrapperBackward(*self.saved_for_backward(inputs.outer, inputs, returns, symbols))
        node.layout = self.layout
        node.watched = [
            (inputs.outer[i].storage, inputs.outer[i]._version, f"input {i}")
            for i in self._saved_inputs
        ]
        inputs.saved = frozenset(map(id, returns[self.meta.num_forward_returns :]))
        inputs.node = node
        metas: list[Any] = []
        for number, (place, recipe) in enumerate(self.layout.tangents):
            metas.append(None)
            if recipe is None:
                set_history(returns[place], node, number)
                metas[-1] = result_meta(returns[place])
        node.results = metas

    def _attach(self, call: _Call, outputs: list[Any]) -> None:
        node = call.node
        assert node is not None
        metas = list(node.results)
        for number, (place, recipe) in enumerate(self.layout.tangents):
            if recipe is not None:
                set_history(outputs[place], node, number)
                metas[number] = result_meta(outputs[place])
        node.results = metas
        for k, output in enumerate(outputs):
            if is_wrapper(output) and any(id(piece) in call.saved for piece in pieces_of(output)):
                node.watched.append((output.storage, output._version, f"result {k}"))
