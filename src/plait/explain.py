"""``plait.explain``: what compiling a function came to, and everything it did without being asked.

Owns the report and its text. Reads what the compiler keeps (entries, programs, accounts, events);
must not know how any of it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plait.aot.metadata import OutputAliasInfo, OutputType
from plait.aot.partition import PartitionReport
from plait.aot.pipeline import AOTProgram
from plait.aot.wrapper_layout import plain_labels
from plait.base import log
from plait.base.account import Account
from plait.base.log import Event
from plait.capture.entries import Entry, Recompile
from plait.capture.guards import GuardFailure
from plait.compile import CompiledFunction
from plait.compile import compile as compile_function
from plait.ir.graph import Graph

__all__ = ["EntryExplanation", "Explanation", "explain"]

_OF_THE_PROCESS = ("threads", "blas")  # recorded once, and true for every function


def explain(fn: Callable[..., Any], **options: Any) -> Callable[..., Explanation]:
    """A function that compiles ``fn`` for its arguments and returns an :class:`Explanation`.

    A plain function is compiled afresh, backward included, with ``options`` as
    :func:`plait.compile` takes them; it is traced but not run, so arguments stay as they are. A
    compiled function is not compiled again: its entries are explained, and, if arguments are given,
    which of them answers or why each does not. Raises what compiling raises.

    >>> import plait
    >>> report = plait.explain(lambda x: (x * 2.0).sum())(plait.ones(3))
    >>> report.entries[0].node_counts["forward"], len(report.entries[0].kernels["forward"])
    (2, 1)
    """

    def explained(*args: Any, **kwargs: Any) -> Explanation:
        if isinstance(fn, CompiledFunction):
            return _explanation(fn, (args, kwargs) if args or kwargs else None, [])
        compiled: CompiledFunction = compile_function(fn, **options)
        account = Account()
        with account:
            compiled.prepare(*args, **kwargs)
        return _explanation(compiled, (args, kwargs), _events(account.events))

    return explained


def _events(found: Iterable[object]) -> list[Event]:
    return [e for e in found if isinstance(e, Event)]


@dataclass(slots=True)
class EntryExplanation:
    """One entry of a compiled function."""

    number: int
    graphs: dict[str, Graph]  # captured, joint, forward, backward: as far as there are
    guards: list[str]  # what is read: what is expected of it
    unguarded: dict[str, str]  # source text of a read -> why it is not guarded
    effects: dict[str, str]  # source text -> what the function did while captured, and then not
    held: list[str]  # tensors found no other way than by being this very object
    compile_seconds: dict[str, float]  # by stage, without the backward
    backward_seconds: dict[str, float]  # by stage; empty until the backward is compiled
    kernels: dict[str, list[Any]]  # "forward", "backward": what the backend tells of its kernels
    partition: PartitionReport | None
    mutated: list[str]  # inputs that are written, by source text
    aliased: list[str]  # outputs that are inputs, or views, in words
    random_calls: int
    runs_eagerly: bool = False  # the function itself is called; ``fallbacks`` say why
    donations: dict[str, str] = field(
        default_factory=dict
    )  # donated or written input -> what holds its memory
    events: list[Event] = field(default_factory=list)

    @property
    def node_counts(self) -> dict[str, int]:
        """Calls in each graph."""
        return {name: len(graph.nodes) for name, graph in self.graphs.items()}

    def of_kind(self, kind: str) -> list[Event]:
        """The events of one kind ("fallback", "cache", ...) while this entry was compiled."""
        return [e for e in self.events if e.kind == kind]

    @property
    def fallbacks(self) -> list[Event]:
        """What runs eagerly, with the reason."""
        return self.of_kind("fallback")

    @property
    def cache(self) -> dict[str, int]:
        """How often the cache on disk gave each outcome ("hit", "miss", "bypass", ...)."""
        counts: dict[str, int] = {}
        for event in self.of_kind("cache"):
            outcome = event.reason.partition(":")[0]
            counts[outcome] = counts.get(outcome, 0) + 1
        return counts

    def __str__(self) -> str:
        return "\n".join(_entry_lines(self))


@dataclass(slots=True)
class Explanation:
    """What there is to know of a compiled function; ``str`` of it is a report.

    ``answering`` is the number of the entry that answers the call asked about, None if none does or
    no call was given; ``refusals`` say which condition fails in which entry.
    """

    name: str
    backend: str
    entries: list[EntryExplanation]  # newest first, in the order in which they are tried
    recompiles: list[Recompile]
    failures: dict[str, int]  # what compiling raised -> how often
    answering: int | None
    refusals: list[tuple[int, GuardFailure]]
    runs_eagerly: str | None  # why every call that no entry answers runs eagerly
    events: list[Event]  # outside of any entry, and those of the process as a whole

    def graph(self, kind: str = "joint", entry: int = 0) -> Graph:
        """A graph of one entry by number: "captured", "joint", "forward" or "backward"."""
        (found,) = [e for e in self.entries if e.number == entry]
        return found.graphs[kind]

    def __str__(self) -> str:
        lines = [f"{self.name}: backend {self.backend}, {_count(len(self.entries), 'entry')}"]
        for number, failure in self.refusals:
            lines.append(f"entry {number} does not answer this call: {failure}")
        if self.answering is not None:
            lines.append(f"entry {self.answering} answers this call")
        if not self.entries:
            lines.append("nothing is compiled yet")
        if self.runs_eagerly:
            lines.append(f"runs eagerly: {self.runs_eagerly}")
        lines += [str(entry) for entry in self.entries]
        lines += _section("recompiles", self.recompiles)
        failed = [f"{_count(times, 'time')}: {text}" for text, times in self.failures.items()]
        lines += _section("compiles that failed", failed, empty=False)
        return "\n".join([*lines, *_section("also recorded", self.events, empty=False)])


# ---------------------------------------------------------------- gathering


def _explanation(
    compiled: CompiledFunction, call: tuple[Any, Any] | None, events: list[Event]
) -> Explanation:
    entries = [_entry(e) for e in compiled.entries]
    answering, refusals = None, []
    for entry in compiled.entries if call is not None else ():
        assert call is not None
        failure = entry.guards.explain(*call)
        if failure is None:
            answering = entry.number
            break
        refusals.append((entry.number, failure))
    inside = {e.number for entry in entries for e in entry.events}
    others = {e.number: e for kind in _OF_THE_PROCESS for e in log.events(kind)}
    others |= {e.number: e for e in events if e.number not in inside}
    return Explanation(
        compiled.__name__,
        compiled.backend_name,
        entries,
        list(compiled.recompiles),
        dict(compiled.failures),
        answering,
        refusals,
        compiled.runs_eagerly,
        [others[number] for number in sorted(others.keys() - inside)],
    )


def _entry(entry: Entry) -> EntryExplanation:
    program = entry.program
    found = EntryExplanation(
        number=entry.number,
        graphs={"captured": program.graph},
        guards=entry.guards.describe(),
        unguarded=dict(program.reads.unguarded),
        effects=dict(program.reads.effects),
        held=[i.desc.expr() for i in program.by_identity],
        compile_seconds=dict(entry.account.times),
        backward_seconds={},
        kernels={},
        partition=None,
        mutated=[],
        aliased=[],
        random_calls=0,
        runs_eagerly=entry.run is None,
        events=_events(entry.account.events),
    )
    compiled = entry.segments[0].compiled
    if isinstance(compiled, AOTProgram):
        _add_program(found, compiled)
    return found


def _add_program(found: EntryExplanation, compiled: AOTProgram) -> None:
    """What ahead-of-time autograd and the backend know."""
    meta = compiled.runtime.meta
    inputs, labels = plain_labels(compiled.captured, compiled.joint.layout)
    found.graphs |= {"joint": compiled.joint.graph, "forward": compiled.forward}
    found.kernels["forward"] = list(getattr(compiled.forward_compiled, "kernels", ()))
    if compiled.backward is not None:
        found.graphs["backward"] = compiled.backward.graph
    for backward in compiled.backward_compiled:
        found.kernels["backward"] = list(getattr(backward, "kernels", ()))
    found.backward_seconds = dict(compiled.backward_account.times)
    found.events += _events(compiled.backward_account.events)
    found.partition = compiled.partition
    found.donations = compiled.donations()
    found.random_calls = meta.num_random_calls
    reused = getattr(compiled.forward_compiled, "reused", {})
    for i in meta.mutated_inputs:
        is_quiet = compiled.joint.is_training and meta.input_info[i].mutations_under_no_grad
        quiet = ", unseen by autograd" if is_quiet else ""
        place = "put into it at once" if i in reused else "copied into it after the call"
        why = found.donations.get(inputs[i], "").partition("not overwritten: ")[2]
        because = f" ({why})" if why else ""
        found.mutated.append(f"{inputs[i]}: its new value is {place}{because}{quiet}")
    for label, info in zip(labels, meta.output_info, strict=True):
        text = _alias_text(info, inputs, labels)
        if text is not None:
            found.aliased.append(f"{label} {text}")


def _alias_text(info: OutputAliasInfo, inputs: list[str], outputs: list[str]) -> str | None:
    """How an output relates to inputs and to other outputs, in words; None if it is fresh."""
    kind, base = info.output_type, info.base_idx
    if kind in (OutputType.NON_ALIAS, OutputType.CONSTANT) or base is None:
        return None
    if kind is OutputType.IS_INPUT:
        return f"is the input {inputs[base]} itself"
    if kind is OutputType.SAME_OUTPUT:
        return f"is the same tensor as {outputs[base]}"
    if kind is OutputType.ALIAS_OF_INPUT:
        return f"is a view of the input {inputs[base]}, made again at each call"
    return "is a view of a tensor that the graph returns besides"


# ---------------------------------------------------------------- text


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _section(title: str, items: Sequence[object], *, empty: bool = True) -> list[str]:
    """A title with its items below, indented; "none" without items, or nothing at all."""
    if not items:
        return [f"{title}: none"] if empty else []
    return [f"{title}:", *(f"  {item}" for item in items)]


def _indented(lines: Iterable[str]) -> list[str]:
    return ["  " + part for line in lines for part in line.splitlines()]


def _entry_lines(entry: EntryExplanation) -> list[str]:
    counts = ", ".join(f"{name} {count}" for name, count in entry.node_counts.items())
    lines = [f"calls: {counts}"]
    if entry.random_calls:
        lines.append(f"random draws: {entry.random_calls}, numbered at capture")
    lines += _section("guards", entry.guards)
    lines += _section("unguarded reads", [f"{t}: {why}" for t, why in entry.unguarded.items()])
    once = [f"{text}: {what}" for text, what in entry.effects.items()]
    lines += _section("done only once", once, empty=False)
    lines += _section("tensors held by the program", entry.held, empty=False)
    lines += _section("written inputs", entry.mutated)
    written = {line.partition(": ")[0] for line in entry.mutated}
    given = [f"{name}: {what}" for name, what in entry.donations.items() if name not in written]
    lines += _section("donated inputs", given, empty=False)
    lines += _section("aliased outputs", entry.aliased)
    lines.append(_seconds_text("compile time", entry.compile_seconds))
    if "backward" in entry.graphs:
        lines.append(_seconds_text("compile time of the backward", entry.backward_seconds))
    lines += _cache_lines(entry)
    for name, kernels in entry.kernels.items():
        lines += _section(f"kernels, {name}", [_kernel_text(k) for k in kernels])
    if entry.partition is not None:
        lines.append(f"partition: {entry.partition}")
    lines += _section("fallbacks", [_fallback_text(e) for e in entry.fallbacks])
    shown = ("fallback", "cache", "native_compile", "recompile", *_OF_THE_PROCESS)
    others = [e for e in entry.events if e.kind not in shown]
    lines += _section("also recorded", others, empty=False)
    eagerly = " (its calls run eagerly)" if entry.runs_eagerly else ""
    return [f"entry {entry.number}{eagerly}:", *_indented(lines)]


def _seconds_text(title: str, seconds: dict[str, float]) -> str:
    if not seconds:
        return f"{title}: not compiled yet"
    stages = ", ".join(f"{name} {s * 1e3:.1f}" for name, s in seconds.items())
    return f"{title}: {sum(seconds.values()) * 1e3:.1f} ms ({stages})"


def _cache_lines(entry: EntryExplanation) -> list[str]:
    """Outcomes in one line; below it every one that is not a hit, each reason once."""
    if not entry.cache:
        return ["cache: not asked"]
    total = ", ".join(f"{count} {outcome}" for outcome, count in entry.cache.items())
    reasons = [e.reason for e in entry.of_kind("cache") if e.reason != "hit"]
    times = {reason: reasons.count(reason) for reason in reasons}
    told = [f"  {r}" if n == 1 else f"  {r} ({n} times)" for r, n in times.items()]
    return [f"cache: {total}", *told]


def _fallback_text(event: Event) -> str:
    """The reason, the user's line and the graph, as far as they are known."""
    line, graph = event.fields.get("line"), event.fields.get("graph")
    return f"{event.reason}{f' at {line}' if line else ''}{f', in the {graph}' if graph else ''}"


def _kernel_text(kernel: Any) -> str:
    lines = [str(kernel)]
    stored = ", ".join(dict.fromkeys(getattr(kernel, "reasons", ())))
    if stored:
        lines.append(f"    in memory: {stored}")
    lines += [f"    {reason}" for reason in getattr(kernel, "not_fused", ())]
    if getattr(kernel, "segments", 1) > 1:
        lines.append(f"    {kernel.segments} independent kernels as one step")
    if getattr(kernel, "not_batched", ""):
        lines.append(f"    a step of its own: {kernel.not_batched}")
    return "\n".join(lines)
