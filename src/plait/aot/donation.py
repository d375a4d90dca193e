"""Donation: which inputs of a compiled function may be overwritten, and by what.

Two kinds: an input that the function writes may hold its new value at once, without a copy
afterwards; a donated input may hold any result. The graph says so (`Graph.reusable`), the backend
decides, and the runtime sees to it that no one else looks at the memory. Every input that was
donated and is not has a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from plait.aot.metadata import OutputType, ViewAndMutationMeta
from plait.autograd.grad_mode import no_grad
from plait.base import log
from plait.base.errors import InplaceError
from plait.dispatch.dispatcher import lookup
from plait.ir.graph import Graph
from plait.tensor.donated import give_away, sharing
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor

__all__ = ["Donation", "decide_donation"]


@dataclass(slots=True)
class Donation:
    """The inputs of one program that may be overwritten.

    ``written`` are those whose new value the graph may put there itself; ``donated`` those whose
    memory the caller gave away; ``refused`` says why other donated ones keep theirs.
    """

    written: dict[int, int] = field(default_factory=dict)
    """Input -> the number of the forward return that is its new value."""
    donated: tuple[int, ...] = ()
    refused: dict[int, str] = field(default_factory=dict)
    metas: dict[int, TensorMeta] = field(default_factory=dict)
    """Types of donated inputs whose sizes are fixed."""

    @property
    def reusable(self) -> dict[int, int | None]:
        """What the graph says to the backend."""
        return {**self.written, **dict.fromkeys(self.donated)}

    def take(self, inputs: list[Tensor]) -> list[Tensor]:
        """The tensors to run on: copies of donated ones whose memory is not theirs alone."""
        taken = list(inputs)
        for i in sharing(inputs, self.donated):
            log.record("donation", "a donated tensor shares its memory; it is copied", input=i)
            with no_grad():
                taken[i] = lookup("aten::clone")(taken[i])
        return taken

    def spend(self, inputs: Sequence[Tensor]) -> None:
        """Let the donated tensors refuse use."""
        for i in self.donated:
            give_away(inputs[i], self.metas.get(i))

    def check_writable(self, inputs: Sequence[Tensor]) -> None:
        """Raise InplaceError before anything is written into read-only memory."""
        for i in self.written:
            array = inputs[i]._array
            if array is not None and not array.flags.writeable:
                raise InplaceError(
                    "compiled function: an input that it writes lies in read-only memory (made "
                    "from a read-only array); expected memory that may be written. Pass a clone."
                )


def decide_donation(
    graph: Graph, meta: ViewAndMutationMeta, donated: Sequence[int], *, has_backward: bool
) -> Donation:
    """What the forward ``graph`` may overwrite; ``donated`` is what the caller offers."""
    decision = Donation()
    for number, i in enumerate(meta.mutated_inputs):
        if number not in meta.tangent_outputs:  # else autograd records the write
            decision.written[i] = number
    shown = {
        info.base_idx
        for info in meta.output_info
        if info.output_type in (OutputType.IS_INPUT, OutputType.ALIAS_OF_INPUT)
    }
    kept = []
    for i in donated:
        if has_backward:
            decision.refused[i] = "the call is differentiable, and its backward may read it"
        elif meta.input_info[i].mutates_data:
            decision.refused[i] = "the function writes it, so it keeps its new value"
        elif i in shown:
            decision.refused[i] = "an output is this input, or a view of it"
        else:
            kept.append(i)
    decision.donated = tuple(kept)
    for i in kept:
        meta_of = graph.inputs[i].type
        if isinstance(meta_of, TensorMeta) and all(
            isinstance(size, int) for size in (*meta_of.shape, *meta_of.strides)
        ):
            decision.metas[i] = meta_of
    return decision
