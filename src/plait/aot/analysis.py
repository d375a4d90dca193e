"""Reading aliasing and mutation off the functional tensors of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plait.aot.functionalize import FunctionalStorage, current, handle_of
from plait.aot.metadata import InputAliasInfo, OutputAliasInfo, OutputType, ViewStep
from plait.capture.proxy import to_expr
from plait.ir.graph import map_values
from plait.tensor.tensor import Tensor

__all__ = ["Outputs", "classify_outputs", "input_infos"]


class _Spec(Protocol):
    @property
    def requires_grad(self) -> bool: ...
    @property
    def is_leaf(self) -> bool: ...


@dataclass(slots=True)
class Outputs:
    """User outputs by kind; ``plain`` and ``bases`` pair a user output's number with a tensor."""

    infos: list[OutputAliasInfo]
    plain: list[tuple[int, Tensor]]
    bases: list[tuple[int, Tensor]]


def input_infos(arguments: Sequence[Tensor], specs: Sequence[_Spec]) -> list[InputAliasInfo]:
    """What the run did to each input."""
    infos = []
    for tensor, spec in zip(arguments, specs, strict=True):
        storage = handle_of(tensor).storage
        infos.append(
            InputAliasInfo(
                is_leaf=spec.is_leaf,
                requires_grad=spec.requires_grad,
                mutates_data=storage.written,
                mutations_under_no_grad=storage.written and not storage.written_with_grad,
            )
        )
    return infos


def classify_outputs(
    results: Sequence[Any], arguments: Sequence[Tensor], declared: Sequence[Any]
) -> Outputs:
    """The kind of each user output.

    A lone view of an intermediate counts as fresh: nobody else can reach its base. Several outputs
    over one intermediate are made again from their base, which is returned besides.
    """
    out = Outputs([], [], [])
    seen: dict[int, int] = {}
    inputs = {id(t): i for i, t in enumerate(arguments)}
    sharing = _outputs_per_storage(results)
    base_numbers: dict[int, int] = {}
    for idx, (tensor, value) in enumerate(zip(results, declared, strict=True)):
        if not isinstance(tensor, Tensor):
            out.infos.append(OutputAliasInfo(OutputType.CONSTANT, constant=value))
            continue
        if id(tensor) in seen:
            out.infos.append(OutputAliasInfo(OutputType.SAME_OUTPUT, seen[id(tensor)]))
            continue
        seen[id(tensor)] = idx
        handle = handle_of(tensor)
        storage, requires_grad = handle.storage, tensor._requires_grad
        if id(tensor) in inputs:
            out.infos.append(
                OutputAliasInfo(
                    OutputType.IS_INPUT, inputs[id(tensor)], requires_grad=requires_grad
                )
            )
        elif storage.input_index is not None:
            steps = _graph_steps(handle.steps)
            kind = OutputType.ALIAS_OF_INPUT
            out.infos.append(
                OutputAliasInfo(kind, storage.input_index, steps=steps, requires_grad=requires_grad)
            )
        elif sharing[id(storage)] > 1 or _is_restrided(tensor):
            number = base_numbers.get(id(storage))
            if number is None:
                number = base_numbers[id(storage)] = len(out.bases)
                out.bases.append((idx, _base_of(results, storage)))
            out.infos.append(
                OutputAliasInfo(
                    OutputType.ALIAS_OF_INTERMEDIATE,
                    number,
                    steps=_graph_steps(handle.steps),
                    requires_grad=requires_grad,
                    is_base=tensor is out.bases[number][1],
                )
            )
        else:
            place = len(out.plain)
            out.plain.append((idx, tensor))
            out.infos.append(
                OutputAliasInfo(OutputType.NON_ALIAS, graph_idx=place, requires_grad=requires_grad)
            )
    return out


def _is_restrided(tensor: Tensor) -> bool:
    """Whether a view was written as a whole, so that its value no longer has the view's strides."""
    if not handle_of(tensor).steps:
        return False
    return tuple(current(tensor).strides) != tuple(tensor.strides)


def _outputs_per_storage(results: Sequence[Any]) -> dict[int, int]:
    """How many distinct output tensors lie over each functional storage."""
    counts: dict[int, int] = {}
    for tensor in {id(t): t for t in results if isinstance(t, Tensor)}.values():
        key = id(handle_of(tensor).storage)
        counts[key] = counts.get(key, 0) + 1
    return counts


def _base_of(results: Sequence[Any], storage: FunctionalStorage) -> Tensor:
    """The tensor at the base of ``storage``, with its history."""
    over = [t for t in results if isinstance(t, Tensor) and handle_of(t).storage is storage]
    with_history = [t for t in over if t._requires_grad] or over
    for tensor in with_history:
        if not handle_of(tensor).steps:
            return tensor
    first = with_history[0]
    return first if first._view is None else first._view.base


def _graph_steps(steps: tuple[ViewStep, ...]) -> tuple[ViewStep, ...]:
    """Steps with SymInts as Exprs, to be evaluated at each call."""
    return tuple(
        [
            ViewStep(
                s.op,
                map_values(s.args, to_expr),
                {k: map_values(v, to_expr) for k, v in s.kwargs.items()},
                s.index,
            )
            for s in steps
        ]
    )
