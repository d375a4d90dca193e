"""How the outputs of a graph come out of a plan: inputs handed back, fresh tensors, views, sizes.

The runner is a Python function written for one plan: straight-line code around one native call.
Must not know scheduling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from plait.backends.llvm.decompose import Lowered
from plait.backends.llvm.layouts import linear_layout
from plait.backends.llvm.loop.indexing import ZERO, dense_or_contiguous
from plait.backends.llvm.loop.interpret import ARRAY_DTYPES
from plait.backends.llvm.lowering.context import meta_of, sizes
from plait.backends.llvm.lowering.pairs import COMPLEX, in_whole, interleaved
from plait.backends.llvm.lowering.stage import Stage
from plait.backends.llvm.plan import OutputSpec, Plan
from plait.ir.graph import Graph, IntType, Value
from plait.symbolic.codegen import source, tuple_source
from plait.symbolic.expr import Expr
from plait.tensor.dtype import FROM_NUMPY, DType
from plait.tensor.layout import Layout
from plait.tensor.tensor import wrap, wrap_view

__all__ = [
    "FreshResult",
    "InputResult",
    "Result",
    "Results",
    "ReusedResult",
    "ViewResult",
    "make_runner",
]

Shape = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class InputResult:
    """An input, as the very object that came in."""

    position: int


@dataclass(frozen=True, slots=True)
class FreshResult:
    """A tensor that the plan wrote."""

    position: int


@dataclass(frozen=True, slots=True)
class ReusedResult:
    """A new tensor over the memory of an input, which the plan overwrote."""

    position: int


@dataclass(frozen=True, slots=True)
class ViewResult:
    """A view of an input, or of a tensor that the plan wrote.

    `dtype`: what it reads the memory as, where that is not the base's type; then `units` says how
    many of its elements make up one of the base (a half: "// 2").
    """

    of_input: bool
    position: int
    shape: Shape
    strides: Shape
    offset: Expr
    dtype: DType | None = None
    units: str = ""


@dataclass(frozen=True, slots=True)
class SizeResult:
    """An integer expression of sizes."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class ConstantResult:
    """Anything that was known when compiling."""

    value: Any


Result = InputResult | FreshResult | ReusedResult | ViewResult | SizeResult | ConstantResult


class Results:
    """Decides, for every output of a graph, how it is obtained, and so what the plan must write."""

    def __init__(self, graph: Graph, lowered: Lowered) -> None:
        self.graph = graph
        self.lowered = lowered
        self.stages: list[Stage] = []
        """Stages that the plan writes as outputs."""
        self.types: list[DType] = []
        """Their element types: complex, or those of the stages."""
        self.sources: list[Result] = [self._source(item) for item in graph.outputs]
        self._users: dict[int, list[tuple[int, FreshResult | ViewResult]]] = {}
        for number, result in enumerate(self.sources):
            if _is_computed(result):
                self._users.setdefault(result.position, []).append((number, result))
        self.specs = [self._spec(position) for position in range(len(self.stages))]

    def _source(self, item: Any) -> Result:
        if not isinstance(item, Value):
            return SizeResult(item) if isinstance(item, Expr) else ConstantResult(item)
        if item in self.graph.inputs:
            return InputResult(self.graph.inputs.index(item))
        if isinstance(item.type, IntType):
            return SizeResult(item.type.expr)
        meta = meta_of(item)
        stage, strides = self.lowered.stages[item], sizes(meta.strides)
        if meta.dtype.is_complex:
            strides = interleaved(strides)
        if stage.kind == "view":
            if dense_or_contiguous(stage.shape, strides) != strides:
                stage = in_whole(stage)
            found = self._view(stage, strides, meta.dtype)
            if found is not None:
                return found
            stage.strides = dense_or_contiguous(stage.shape, strides)
        position = self._output(stage, meta.dtype)
        if self.types[position] is not meta.dtype:
            whole = ViewResult(False, position, stage.shape, stage.strides, ZERO)
            return in_units(whole, self.types[position], meta.dtype)
        return FreshResult(position)

    def _output(self, stage: Stage, dtype: DType) -> int:
        if stage not in self.stages:
            self.stages.append(stage)
            self.types.append(dtype)
        return self.stages.index(stage)

    def _view(self, stage: Stage, strides: Shape, dtype: DType) -> ViewResult | None:
        """A view of an input, or of a whole computed buffer, if its strides are the wanted ones."""
        layout = linear_layout(stage, ())
        if layout is None:
            return None
        root, found, offset = layout
        if any(a is not b and str(n) != "1" for a, b, n in zip(found, strides, stage.shape)):
            return None
        if root.kind == "input":
            inputs = [self.lowered.stages.get(value) for value in self.graph.inputs]
            position = inputs.index(root)
            result = ViewResult(True, position, stage.shape, strides, offset)
            return in_units(result, meta_of(self.graph.inputs[position]).dtype, dtype)
        if dtype.is_complex:
            return None
        if root.numel is not stage.numel and dense_or_contiguous(stage.shape, strides) == strides:
            return None
        position = self._output(root, dtype)
        result = ViewResult(False, position, stage.shape, strides, offset)
        return in_units(result, self.types[position], dtype)

    def _spec(self, position: int) -> OutputSpec:
        """What the plan allocates: a buffer seen only through one whole view gets its shape."""
        stage = self.stages[position]
        users = self._users[position]
        number, only = users[0]
        dtype, shape, strides = self.types[position], stage.shape, stage.strides
        if len(users) == 1 and isinstance(only, ViewResult) and not dtype.is_complex:
            if only.dtype is None and is_whole(only, stage):
                self.sources[number] = FreshResult(position)
                return OutputSpec(stage.name, stage.dtype, only.shape, only.strides)
        if dtype.is_complex:
            strides = tuple(stride // 2 for stride in strides[:-1])
            return OutputSpec(stage.name, COMPLEX_NAMES[stage.dtype], shape[:-1], strides)
        return OutputSpec(stage.name, stage.dtype, shape, strides)


COMPLEX_NAMES = {part: name for name, part in COMPLEX.items()}


def in_units(view: ViewResult, base: DType, dtype: DType) -> ViewResult:
    """A view counted in parts, counted in elements of `dtype` over a base of type `base`."""
    if dtype.is_complex:
        strides = tuple(stride // 2 for stride in view.strides[:-1])
        view = replace(view, shape=view.shape[:-1], strides=strides, offset=view.offset // 2)
    if dtype is base:
        return view
    units = " // 2" if dtype.is_complex else " * 2" if base.is_complex else ""
    return replace(view, dtype=dtype, units=units)


def _is_computed(result: Result) -> TypeGuard[FreshResult | ViewResult]:
    """Whether an output is memory that the plan wrote, or a view of it."""
    return isinstance(result, FreshResult) or (
        isinstance(result, ViewResult) and not result.of_input
    )


def is_whole(view: ViewResult, stage: Stage) -> bool:
    """Whether the view shows all memory of `stage`, only in another shape."""
    dense = dense_or_contiguous(view.shape, view.strides) == view.strides
    return dense and view.offset is ZERO and stage.numel is _count(view.shape)


def _count(shape: Shape) -> Expr:
    count = ZERO + 1
    for size in shape:
        count = count * size
    return count


# ---------------------------------------------------------------- the runner


def make_runner(results: Sequence[Result], plan: Plan, call: Callable[..., Any]) -> Any:
    """A function of the graph's inputs that calls the plan's entry and returns the outputs.

    >>> print(runner_source([FreshResult(0), InputResult(0)], plan))  # doctest: +SKIP
    def run(x0):
        a0, = call(x0._array)
        f0 = wrap(a0, t0)
        return [f0, x0]
    """
    scope = {"call": call, "wrap": wrap, "wrap_view": wrap_view, "Layout": Layout}
    scope |= {f"c{k}": r.value for k, r in enumerate(results) if isinstance(r, ConstantResult)}
    scope |= {f"d{k}": r.dtype for k, r in enumerate(results) if isinstance(r, ViewResult)}
    scope |= {"min": min, "max": max}
    kinds = [FROM_NUMPY[ARRAY_DTYPES[spec.dtype]] for spec in plan.outputs]
    scope |= {f"t{k}": kind for k, kind in enumerate(kinds)}
    exec(compile(runner_source(results, plan), f"<plait {plan.name}>", "exec"), scope)
    return scope["run"]


def runner_source(results: Sequence[Result], plan: Plan) -> str:
    """The text of the runner."""
    parameters = [f"x{k}" for k in range(len(plan.inputs))]
    lines = [f"def run({', '.join(parameters)}):"]
    arguments = [
        name if spec.dtype == "int" else f"{name}._array"
        for name, spec in zip(parameters, plan.inputs)
    ]
    fresh = range(len(plan.outputs))
    if plan.outputs or plan.steps:
        results_ = "".join(f"a{k}, " for k in fresh)
        call = f"call({', '.join(arguments)})"
        lines.append(f"    {results_}= {call}" if plan.outputs else f"    {call}")
    lines += [f"    f{k} = wrap(a{k}, t{k})" for k in fresh]
    names = {}
    if any(isinstance(r, SizeResult | ViewResult) for r in results):
        for s in plan.symbols:
            names[s.name] = f"s_{s.name}"
            place = f"x{s.input}" if s.dim is None else f"x{s.input}._array.shape[{s.dim}]"
            lines.append(f"    s_{s.name} = {place}")
    items = [_result_source(k, result, names) for k, result in enumerate(results)]
    lines.append(f"    return [{', '.join(items)}]")
    return "\n".join(lines)


def _result_source(number: int, result: Result, names: dict[str, str]) -> str:
    if isinstance(result, InputResult):
        return f"x{result.position}"
    if isinstance(result, FreshResult):
        return f"f{result.position}"
    if isinstance(result, ReusedResult):
        return f"wrap(x{result.position}._array, x{result.position}._dtype)"
    if isinstance(result, ConstantResult):
        return f"c{number}"
    if isinstance(result, SizeResult):
        return source(result.expr, names)
    base = f"x{result.position}" if result.of_input else f"f{result.position}"
    offset = source(result.offset, names)
    if result.of_input:
        offset = f"{offset} + {base}.storage_offset(){result.units}"
    dtype = "" if result.dtype is None else f", d{number}"
    shape, strides = tuple_source(result.shape, names), tuple_source(result.strides, names)
    return f"wrap_view({base}, Layout({shape}, {strides}, {offset}){dtype})"
