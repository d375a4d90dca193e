"""Attention stages as steps of a plan: which tensors they read and write, and where.

Must not know operators or LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from plait.backends.llvm.layouts import Layout, attention_layouts
from plait.backends.llvm.loop.indexing import ONE, ZERO
from plait.backends.llvm.lowering.stage import Stage
from plait.backends.llvm.plan import (
    ATTENTION_MASK,
    FEW,
    Attention,
    AttentionForm,
    Binding,
    Strided,
)
from plait.symbolic.expr import as_int

__all__ = ["Attended", "attended", "describe", "place_attention"]


@dataclass(frozen=True, slots=True)
class Attended:
    """An attention stage with its tensors, in a step's order, as strided memory of stored stages.

    None: there is no mask, or nobody reads that result.
    """

    stage: Stage
    tensors: tuple[Layout | None, ...]
    form: AttentionForm

    @property
    def touched(self) -> list[Stage]:
        """The stored stages read and written."""
        return [tensor[0] for tensor in self.tensors if tensor is not None]


def attended(stage: Stage, realised: Collection[Stage], stored: Collection[Stage]) -> Attended:
    """The tensors and the form of an attention stage."""
    call = stage.attention
    assert call is not None
    read: list[Layout | None] = list(attention_layouts(stage, realised))
    assert None not in read
    if not call.has_mask:
        read.insert(ATTENTION_MASK, None)
    results: list[Layout | None] = [None] * (3 if call.backward else 2)
    for made in stored:
        if made is stage or (made.kind == "result" and made.inputs[0] is stage):
            results[made.result] = (made, made.strides, ZERO)
    mask = read[ATTENTION_MASK]
    queries = as_int(stage.inputs[0].shape[2])
    form = AttentionForm(
        call.backward,
        stage.dtype,
        as_int(stage.shape[3]) or 0,
        call.scale,
        call.is_causal,
        "" if mask is None else mask[0].dtype,
        mask is not None and mask[1][2] is not ZERO,
        mask is not None and mask[1][3] is ONE,
        False if call.backward else None if queries is None else queries <= FEW,
        tuple(result is not None for result in results),
    )
    return Attended(stage, (*read, *results), form)


def place_attention(part: Attended, place: Callable[[Layout], Binding]) -> Attention:
    """The step, given where layouts begin."""
    batch, heads, queries, _ = part.stage.inputs[0].shape
    keys = part.stage.inputs[1].shape[2]
    tensors = (None if x is None else Strided(place(x), x[1]) for x in part.tensors)
    return Attention(part.form, batch, heads, queries, keys, tuple(tensors), part.stage.name)


def describe(step: Attention) -> str:
    """One line about a step, for people."""
    form = step.form
    kind = "attention backward" if form.backward else "attention"
    words = [f"{kind} {step.batch} x {step.heads} heads, {step.queries} x {step.keys} scores"]
    words[0] += f" in tiles {form.tile[0]} x {form.tile[1]}, width {form.width} {form.dtype}"
    words += ["causal"] if form.is_causal else []
    words += [f"{form.mask} mask"] if form.mask else []
    return ", ".join(words)
