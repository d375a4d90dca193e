"""The backend's front door: a graph in, a callable over tensors out.

Splits the graph where operators cannot be lowered (each such call is recorded with its reason and
runs eagerly between native segments), schedules and plans each segment, and hands plans to native
code or to the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from plait.backends.llvm.assemble import Assembled, Interface, assemble
from plait.backends.llvm.attention import describe
from plait.backends.llvm.boundaries import boundaries
from plait.backends.llvm.build import BuiltKernel
from plait.backends.llvm.decompose import Lowered, lower_graph
from plait.backends.llvm.execute import InterpretedEntry
from plait.backends.llvm.groups import Group
from plait.backends.llvm.input_memory import InputMemory
from plait.backends.llvm.loop.printer import print_kernel
from plait.backends.llvm.lowering.context import meta_of, sizes
from plait.backends.llvm.plan import (
    Attention,
    Check,
    Gemm,
    InputSpec,
    KernelCall,
    Plan,
    SymbolSource,
)
from plait.backends.llvm.promises import promise_of
from plait.backends.llvm.reinplace import written_in_place
from plait.backends.llvm.results import Results, make_runner
from plait.backends.llvm.schedule import Schedule, schedule
from plait.backends.llvm.segments import Segment, split
from plait.base.account import stage
from plait.base.errors import IndexOutOfRange, InvalidArgument
from plait.base.log import record
from plait.ir.graph import Graph, IntType, Value
from plait.symbolic.expr import Expr

__all__ = ["CompiledGraph", "KernelInfo", "NotFused", "Program", "compile_graph"]


class NotFused(NamedTuple):
    """Why a kernel is not part of an earlier one: its name, the values it makes, the reason."""

    kernel: str
    values: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"not fused with {self.kernel} ({', '.join(self.values)}): {self.reason}"


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One step of a compiled graph, for people."""

    name: str
    kind: str
    ops: tuple[str, ...]
    """Operators fused into it."""
    values: tuple[str, ...]
    """Graph values it computes."""
    reasons: tuple[str, ...]
    """Why those values have a buffer."""
    not_fused: tuple[NotFused, ...] = ()
    """Earlier kernels that share values with this one, and why they are not one kernel."""
    segments: int = 1
    """Independent kernels that run as this one step, over a table of them."""
    not_batched: str = ""
    """Why it is not such a step together with other kernels, where there are some."""

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.ops)} -> {', '.join(self.values)}"


def compile_graph(graph: Graph, options: Mapping[str, Any] | None = None) -> CompiledGraph:
    """Compile a functional graph. options: execute = "native" (default) or "interpret"."""
    options = dict(options or {})
    execute = options.pop("execute", "native")
    if execute not in ("native", "interpret") or options:
        raise InvalidArgument(
            f"llvm: options {options or execute!r} cannot be used; expected execute='native' or "
            "'interpret'."
        )
    with stage("lowering"):
        lowered = lower_graph(graph)
    if not lowered.unsupported:
        program = Program(graph, lowered, execute)
        return CompiledGraph(graph, [program], program.run)
    for node, reason in lowered.unsupported.items():
        line = "{}:{}".format(*node.source[-1][:2]) if node.source else ""
        record("fallback", reason, operator=node.op.qualname, line=line, graph=graph.name)
    segments = split(graph, set(lowered.unsupported))
    runner = _Segmented(graph, segments, execute)
    return CompiledGraph(graph, runner.programs, runner)


class CompiledGraph:
    """A compiled graph: call it with flat inputs (tensors, and ints where the graph has ints)."""

    def __init__(self, graph: Graph, programs: list[Program], run: Callable[..., Any]) -> None:
        self.graph = graph
        self.whole = len(programs) == 1 and programs[0].graph is graph
        self.programs = programs
        self._run = run

    def __call__(self, *inputs: Any) -> list[Any]:
        """The graph's outputs."""
        outputs: list[Any] = self._run(*inputs)
        return outputs

    @property
    def reused(self) -> dict[int, int]:
        """Inputs whose memory holds an output after a call, with the number of that output."""
        return self.programs[0].memory.reused if self.whole else {}

    @property
    def kept(self) -> dict[int, str]:
        """Why the other inputs that could be overwritten are not."""
        reason = "some calls run eagerly between native parts"
        return (
            self.programs[0].memory.kept
            if self.whole
            else dict.fromkeys(self.graph.reusable, reason)
        )

    @property
    def kernels(self) -> list[KernelInfo]:
        """Its kernels and matrix products, in order."""
        return [info for program in self.programs for info in program.kernels]

    def listing(self, kind: str = "loop") -> str:
        """Its text: kind "graph", "loop", "llvm" or "asm"."""
        if kind == "graph":
            return str(self.graph)
        if kind == "loop":
            return "\n".join(program.loops() for program in self.programs)
        if kind not in ("llvm", "asm"):
            raise InvalidArgument(
                f"listing: argument 'kind' is {kind!r}; expected 'graph', 'loop', 'llvm' or 'asm'."
            )
        return "\n".join(str(program.entry.listing(kind)) for program in self.programs)


class Program:
    """One graph without fallbacks: its plan, its entry, and how results come out of it."""

    def __init__(self, graph: Graph, lowered: Lowered, execute: str) -> None:
        self.graph = graph
        with stage("lowering"):
            results = Results(graph, lowered)
            self.memory = InputMemory(results)
        with stage("scheduling"):
            self.schedule: Schedule = schedule(results.stages, self.memory.wishes())
            self.memory.settle(self.schedule.reuse)
        with stage("planning"):
            interface = _interface(graph, lowered, results)
            self.assembled: Assembled = assemble(self.schedule, interface)
        self.plan: Plan = self.assembled.plan
        self.entry: Any = _entry(self.plan, execute)
        call = getattr(self.entry, "call", self.entry)
        self.run: Callable[..., list[Any]] = make_runner(results.sources, self.plan, call)

    def __call__(self, *inputs: Any) -> list[Any]:
        """Run on flat inputs."""
        return self.run(*inputs)

    @property
    def kernels(self) -> list[KernelInfo]:
        """What each step computes, and why it is not part of an earlier one."""
        groups = self.schedule.groups
        infos = [self._info(part, group) for part, group in zip(self.assembled.built, groups)]
        apart: list[list[NotFused]] = [[] for _ in infos]
        together = sorted((*self.plan.batches, *self.plan.tiles))
        batch_of = {at: start for start, stop in together for at in range(start, stop)}
        for early, late, reason in boundaries(groups):
            if batch_of.get(early, early) != batch_of.get(late, late):
                apart_because = self.assembled.no_epilogue.get(late)
                if apart_because and late == early + 1:
                    reason = f"{reason}: {apart_because}"
                apart[late].append(NotFused(infos[early].name, infos[early].values, reason))
        alone = self.assembled.no_batch
        whole = [
            replace(info, not_fused=tuple(own), not_batched=alone.get(number, ""))
            for number, (info, own) in enumerate(zip(infos, apart))
        ]
        for start, stop in reversed(together):
            join = joined if (start, stop) in self.plan.batches else with_epilogue
            whole[start:stop] = [join(whole[start:stop])]
        return whole

    def _info(self, part: BuiltKernel | Gemm | Attention, group: Group) -> KernelInfo:
        if isinstance(part, Attention):
            op = group.units[0].stage.op
            return KernelInfo(part.name, "attention", (op,), (part.name,), (describe(part),))
        if isinstance(part, Gemm):
            return KernelInfo(part.name, "gemm", ("gemm",), (part.name,), ("a matrix product",))
        targets = {unit.target for unit in group.units}
        why = tuple(self.schedule.reasons[s] for s in part.buffers if s in targets)
        return KernelInfo(part.kernel.name, "kernel", part.ops, part.fused, why)

    def loops(self) -> str:
        """Kernels in the loop IR, each with the values it computes; products as one line."""
        lines = []
        for step in self.plan.steps:
            if isinstance(step, KernelCall):
                lines.append(f"# {', '.join(step.fused)}\n{print_kernel(step.kernel)}")
            elif isinstance(step, Attention):
                lines.append(f"# {step.name}\n{describe(step)}\n")
            else:
                sizes_ = f"{step.m} x {step.n} x {step.k}"
                batch = f" (batch {', '.join(map(str, step.batch))})" if step.batch else ""
                lines.append(f"# {step.name}\ngemm {sizes_}{batch} {step.dtype}\n")
        return "\n".join(lines)


def joined(infos: Sequence[KernelInfo]) -> KernelInfo:
    """A batch, as one kernel over a table of segments."""

    def all_of(field: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(item for info in infos for item in getattr(info, field)))

    names = list(dict.fromkeys(info.name for info in infos))
    name = names[0] if len(names) == 1 else f"{names[0]}_and_{len(names) - 1}_more"
    return KernelInfo(
        name,
        "kernel",
        all_of("ops"),
        all_of("values"),
        all_of("reasons"),
        all_of("not_fused"),
        len(infos),
    )


def with_epilogue(infos: Sequence[KernelInfo]) -> KernelInfo:
    """A product and the kernel that runs on each block of its rows, as one step."""
    return replace(joined(infos), name=infos[-1].name, kind="gemm", segments=1)


def raise_check(check: Check) -> None:
    """Raise the error of a failed run-time check."""
    where = f" Called at {check.source}." if check.source else ""
    raise IndexOutOfRange(f"{check.message}{where}")


def _entry(plan: Plan, execute: str) -> Any:
    if execute == "interpret":
        return InterpretedEntry(plan, raise_check)
    with stage("loading"):
        from plait.backends.llvm.native.entry import build_entry

    return build_entry(plan, raise_check)


def _interface(graph: Graph, lowered: Lowered, results: Results) -> Interface:
    specs = []
    for value in graph.inputs:
        if isinstance(value.type, IntType):
            specs.append(InputSpec(value.name, "int", (), ()))
        else:
            meta, stage = meta_of(value), lowered.stages[value]
            specs.append(InputSpec(value.name, stage.dtype, stage.shape, sizes(meta.strides)))
    sources = graph.symbol_sources().items()
    symbols = tuple(SymbolSource(name, at, dim) for name, (at, dim) in sources)
    positions = {
        lowered.stages[value]: k
        for k, value in enumerate(graph.inputs)
        if not isinstance(value.type, IntType)
    }
    outputs = dict(zip(results.stages, results.specs))
    return Interface(graph.name, tuple(specs), symbols, positions, outputs)


class _Segmented:
    """Native segments and eager calls in turn, over an environment of values."""

    def __init__(self, graph: Graph, segments: Sequence[Segment], execute: str) -> None:
        self.graph = graph
        self.steps: list[tuple[Callable[..., Any], Segment]] = []
        self.programs: list[Program] = []
        self.unbacked = graph.unbacked_sources()
        self.promises = {
            s.node: promise_of(s.node, self.unbacked) for s in segments if s.node is not None
        }
        for node, names in written_in_place(graph, segments).items():
            next(s for s in segments if s.node is node).in_place = names
        for segment in segments:
            run: Callable[..., Any] = segment.run_eagerly
            if segment.graph is not None:
                program = Program(segment.graph, lower_graph(segment.graph), execute)
                self.programs.append(program)
                run = program.run
            self.steps.append((run, segment))

    def __call__(self, *inputs: Any) -> list[Any]:
        """Run every segment."""
        values: dict[Value, Any] = dict(zip(self.graph.inputs, inputs))
        symbols = {
            name: inputs[at] if dim is None else inputs[at].shape[dim]
            for name, (at, dim) in self.graph.symbol_sources().items()
        }
        for run, segment in self.steps:
            arguments = [values[value] for value in segment.inputs]
            arguments += [symbols[name] for name in segment.symbols]
            results = run(*arguments)
            values.update(zip(segment.outputs, results))
            if segment.node is not None:
                if self.unbacked:
                    for value, result in zip(segment.outputs, results):
                        for name, dim in self.unbacked.get(value, ()):
                            symbols[name] = result.shape[dim]
                self.promises[segment.node](results, symbols)
        return [self._output(item, values, symbols) for item in self.graph.outputs]

    def _output(self, item: Any, values: Mapping[Value, Any], symbols: Mapping[str, int]) -> Any:
        if isinstance(item, Value):
            return values[item]
        return item.evaluate(symbols) if isinstance(item, Expr) else item
