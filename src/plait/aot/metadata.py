"""What ahead-of-time analysis knows of one compiled function: aliasing, mutation, gradients.

Class names follow PyTorch's AOTAutograd records. The word *schema* belongs to operators.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from plait.ir.descriptors import AOTOutput
from plait.tensor.layout import TensorMeta

__all__ = [
    "InputAliasInfo",
    "OutputAliasInfo",
    "OutputType",
    "ViewAndMutationMeta",
    "ViewStep",
]


class OutputType(Enum):
    """How a user output relates to inputs and to intermediates."""

    NON_ALIAS = auto()
    IS_INPUT = auto()  # the very same object as an input
    ALIAS_OF_INPUT = auto()  # a view of an input
    ALIAS_OF_INTERMEDIATE = auto()  # a view of a base that is returned besides
    SAME_OUTPUT = auto()  # the very same object as an earlier output
    CONSTANT = auto()  # a number, a size, a string, None


@dataclass(frozen=True, slots=True)
class ViewStep:
    """One replayable view: ``op(base, *args, **kwargs)``, then result ``index`` of several.

    Sizes among the arguments are ints or Exprs over the graph's symbols.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int | None = None


@dataclass(frozen=True, slots=True)
class OutputAliasInfo:
    """One user output.

    ``base_idx`` is an input number (IS_INPUT, ALIAS_OF_INPUT), the number of an intermediate base,
    or of an earlier output (SAME_OUTPUT). ``graph_idx`` is its place among the graph's user outputs
    (NON_ALIAS). ``requires_grad`` is False also for a view made under no_grad or by detach.
    """

    output_type: OutputType
    base_idx: int | None = None
    graph_idx: int | None = None
    steps: tuple[ViewStep, ...] = ()
    requires_grad: bool = False
    constant: Any = None
    is_base: bool = False  # the very base that the graph returns


@dataclass(frozen=True, slots=True)
class InputAliasInfo:
    """One input: is it written, and does autograd see it?"""

    is_leaf: bool
    requires_grad: bool
    mutates_data: bool = False  # the graph returns the new value, the epilogue copies it
    mutations_under_no_grad: bool = False


@dataclass(slots=True)
class ViewAndMutationMeta:
    """The central record of one compiled function.

    The forward graph returns, in this order: new values of mutated inputs, user outputs that are
    not aliases, intermediate bases, and what is saved for backward.
    """

    input_info: list[InputAliasInfo]
    output_info: list[OutputAliasInfo]
    num_intermediate_bases: int = 0
    traced_tangents: list[TensorMeta] = field(default_factory=list)
    traced_tangents_descs: list[AOTOutput] = field(default_factory=list)
    tangent_outputs: list[int] = field(default_factory=list)  # forward return of each tangent
    num_random_calls: int = 0
    num_saved: int = 0

    @property
    def mutated_inputs(self) -> list[int]:
        """Numbers of the inputs whose new value the graph returns."""
        return [i for i, info in enumerate(self.input_info) if info.mutates_data]

    @property
    def num_plain_outputs(self) -> int:
        """How many user outputs the graph itself returns."""
        return sum(o.output_type is OutputType.NON_ALIAS for o in self.output_info)

    @property
    def num_forward_returns(self) -> int:
        """Mutated inputs, plain outputs and bases; saved values follow."""
        return len(self.mutated_inputs) + self.num_plain_outputs + self.num_intermediate_bases
