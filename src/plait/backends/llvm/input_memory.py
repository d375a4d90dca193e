"""Which outputs of a graph may be written into inputs, and what the runner returns for them then.

Asks `reuse` for what the graph allows (`Graph.reusable`) and takes note of why the other inputs
keep their memory. Must not know operators or scheduling.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TypeAlias, TypeGuard

from plait.backends.llvm.loop.indexing import dense_or_contiguous
from plait.backends.llvm.lowering.stage import Stage
from plait.backends.llvm.results import (
    FreshResult,
    InputResult,
    Result,
    Results,
    ReusedResult,
    ViewResult,
)
from plait.backends.llvm.reuse import Reuse, Wish
from plait.backends.llvm.switches import is_off, off_reason

__all__ = ["InputMemory"]

Kind: TypeAlias = tuple[object, ...]


class InputMemory:
    """The inputs that outputs of one graph may take over.

    `reused`: input -> the output that is put there; `kept`: why the others are not overwritten.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.reusable = results.graph.reusable
        self.stages = {i: results.lowered.stages[results.graph.inputs[i]] for i in self.reusable}
        self.kept: dict[int, str] = {}
        self.reused: dict[int, int] = {}
        self.candidates: dict[int, Stage] = {}
        """Computed stages by the output that they are, if they are that only."""

    def wishes(self) -> list[Wish]:
        """What to ask for: each output with the inputs that have its type and layout."""
        shown = {s.position for s in self.results.sources if _is_input(s)}
        free = {i: stage for i, stage in self.stages.items() if self._is_free(i, stage, shown)}
        donated: dict[Kind, list[Stage]] = {}
        for i, stage in free.items():
            if self.reusable[i] is None:
                donated.setdefault(_kind(stage), []).append(stage)
        target_of = {k: i for i, k in self.reusable.items() if k is not None}
        self.candidates = self._sole_results() if self.reusable else {}
        found = []
        for k, result in self.candidates.items():
            if k not in target_of:
                found.append(Wish(result, tuple(donated.get(_kind(result), ()))))
            elif target_of[k] in free:
                i = target_of[k]
                if _kind(result) == _kind(free[i]):
                    found.append(Wish(result, (free[i],)))
                else:
                    self.kept[i] = "its new value has another layout"
        return found

    def _is_free(self, i: int, stage: Stage, shown: set[int]) -> bool:
        """Whether no output shows input `i`, and it is dense."""
        if is_off("in_place"):
            self.kept[i] = off_reason("in_place")
        elif i in shown:
            self.kept[i] = "an output is this input, or a view of it"
        elif dense_or_contiguous(stage.shape, stage.strides) != stage.strides:
            self.kept[i] = "its elements do not lie densely in memory"
        return i not in self.kept

    def _sole_results(self) -> dict[int, Stage]:
        """Outputs that are a computed stage as it was made, and no other output is."""
        results = self.results
        uses = Counter(s.position for s in results.sources if _is_computed(s))
        found = {}
        for k, source in enumerate(results.sources):
            if isinstance(source, FreshResult) and uses[source.position] == 1:
                stage, spec = results.stages[source.position], results.specs[source.position]
                if (spec.shape, spec.strides) == (stage.shape, stage.strides):
                    found[k] = stage
        return found

    def settle(self, reuse: Reuse) -> None:
        """Put what was granted into `results`: such outputs are not fresh any more."""
        results, numbers = self.results, {stage: i for i, stage in self.stages.items()}
        fresh = [k for k, stage in enumerate(results.stages) if stage not in reuse.taken]
        renumbered = {old: new for new, old in enumerate(fresh)}
        for k, result in self.candidates.items():
            if result in reuse.taken:
                self.reused[numbers[reuse.taken[result]]] = k
        for i in self.reusable:
            if i not in self.reused and i not in self.kept:
                self.kept[i] = self._reason(i, reuse)
        place_of = {k: i for i, k in self.reused.items()}
        for k, source in enumerate(results.sources):
            if k in place_of:
                i = place_of[k]
                results.sources[k] = ReusedResult(i) if self.reusable[i] is None else InputResult(i)
            elif _is_computed(source):
                results.sources[k] = replace(source, position=renumbered[source.position])
        results.stages = [results.stages[k] for k in fresh]
        results.specs = [results.specs[k] for k in fresh]

    def _reason(self, i: int, reuse: Reuse) -> str:
        """Why a free input was not taken."""
        k = self.reusable[i]
        if k is not None:
            result = self.candidates.get(k)
            if result is None:
                return "its new value is an input, a view, or another output too"
            return reuse.refused[result]
        alike = [why for s, why in reuse.refused.items() if _kind(s) == _kind(self.stages[i])]
        return alike[0] if alike else "no output is left that has its type and layout"


def _is_computed(source: Result) -> TypeGuard[FreshResult | ViewResult]:
    return isinstance(source, FreshResult) or (
        isinstance(source, ViewResult) and not source.of_input
    )


def _is_input(source: Result) -> TypeGuard[InputResult | ViewResult]:
    return isinstance(source, InputResult) or (isinstance(source, ViewResult) and source.of_input)


def _kind(stage: Stage) -> Kind:
    return stage.dtype, stage.shape, stage.strides
