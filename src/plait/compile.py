"""The front door: ``plait.compile`` puts capture, ahead-of-time autograd and a backend in a row."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optree

from plait.aot.joint import InputSpec
from plait.aot.pipeline import AOTProgram, call_backend, compile_ahead
from plait.aot.runtime import Compiled
from plait.aot.saving import Partitioner, choose_partitioner, min_cut_partition
from plait.aot.wrapper_layout import WrapperRefused
from plait.backends.registry import Backend, lookup_backend
from plait.base import log
from plait.base.account import Account, stage
from plait.base.errors import InvalidArgument
from plait.capture.entries import Entry, Recompile, Segment, SizeHistory, nearest_failure
from plait.capture.guards import aliased_writes, build_guards
from plait.capture.modules import is_module_like
from plait.capture.signature import flatten_call, label_of
from plait.capture.tracer import CapturedProgram, capture
from plait.dispatch.modes import disable_modes
from plait.dispatch.state import autocasting, tls
from plait.ir.graph import Graph
from plait.tensor.donated import refuse_donated
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper_recipe import pieces_of, recipe_of

__all__ = ["CompiledFunction", "compile"]

RECOMPILE_LIMIT = 16
MOST_FAILURES = 16  # different ones that are remembered


def compile(
    fn: Callable[..., Any] | None = None,
    *,
    backend: str | Backend = "llvm",
    fullgraph: bool = False,
    dynamic: bool | None = None,
    options: dict[str, Any] | None = None,
    partitioner: str | Partitioner | None = None,
    memory_budget: float = 1.0,
    donate: str | Sequence[str] = (),
    name: str | None = None,
) -> Any:
    """Compile ``fn`` at its first call, for arguments like those of the call.

    ``fn`` is a function, a bound method or a module; without it, a decorator is returned.
    ``backend`` is a name (see ``plait.list_backends``) or a callable ``(graph, options) ->
    callable``. ``dynamic``: None makes a size symbolic once it was seen to vary, True makes all
    sizes symbolic except 0 and 1, False none. ``options`` go to the backend.

    ``partitioner`` says what a training program keeps for its backward: "min_cut" (the default)
    computes again what is cheaper to compute than to keep, "default" keeps all that the backward
    reads, a callable takes a joint graph and returns a ``Partition``. ``memory_budget`` below 1
    keeps at most that fraction of the bytes and computes more again, 0 keeps inputs alone.

    ``donate`` names parameters whose tensors the caller does not need after the call, such as the
    parameters and the state of an optimiser: results of equal type and strides are written into
    their memory, and the tensors raise DonatedError when they are used again. A tensor whose memory
    something else shows (a view, a NumPy array) is copied first. ``donations`` says what became of
    each.

    A call whose arguments, or whatever else the function reads, differ from what it was compiled
    for compiles again; ``recompiles`` has the reasons. Raises DataDependentError where the function
    reads a tensor's value, CaptureError for what cannot be captured, and what eager would raise for
    bad arguments.

    >>> import plait
    >>> @plait.compile
    ... def f(x, w):
    ...     return plait.relu(x @ w).sum()
    >>> f(plait.ones(2, 3), plait.ones(3, 4))
    tensor(24.)
    """
    if fn is None:
        return functools.partial(
            compile,
            backend=backend,
            fullgraph=fullgraph,
            dynamic=dynamic,
            options=options,
            partitioner=partitioner,
            memory_budget=memory_budget,
            donate=donate,
            name=name,
        )
    if not callable(fn):
        raise InvalidArgument(
            f"compile: argument 'fn' is a {type(fn).__name__}; expected a callable."
        )
    return CompiledFunction(
        fn,
        backend,
        fullgraph=fullgraph,
        dynamic=dynamic,
        options=options,
        partitioner=choose_partitioner(partitioner, memory_budget),
        memory_budget=memory_budget,
        donate=(donate,) if isinstance(donate, str) else tuple(donate),
        name=name,
    )


class CompiledFunction:
    """A function and the entries it has been compiled to.

    Several threads may call it at once; compiling is serialised.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        backend: str | Backend,
        *,
        fullgraph: bool,
        dynamic: bool | None,
        options: dict[str, Any] | None,
        partitioner: Partitioner = min_cut_partition,
        memory_budget: float = 1.0,
        donate: tuple[str, ...] = (),
        name: str | None = None,
    ) -> None:
        self.fn = fn
        self.backend_name = (
            backend if isinstance(backend, str) else getattr(backend, "__name__", "backend")
        )
        self.backend = lookup_backend(backend)
        self.fullgraph = fullgraph
        self.options = dict(options or {})
        self.partitioner = partitioner
        self.memory_budget = memory_budget
        self.entries: list[Entry] = []
        self.recompiles: list[Recompile] = []
        self.failures: dict[str, int] = {}  # what compiling raised, and how often
        self._sizes = SizeHistory(dynamic)
        self._lock = threading.RLock()
        self._names = _parameter_names(fn)
        self.donate = _checked_donate(donate, self._names)
        self.runs_eagerly: str | None = None
        functools.update_wrapper(self, fn if hasattr(fn, "__name__") else type(fn), updated=())
        if name is not None:
            self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for entry in self.entries:
            inputs = entry.guards.check(args, kwargs)
            if inputs is not None:
                run = entry.run
                return self.fn(*args, **kwargs) if run is None else entry.finish(run(inputs))
        return self._miss(args, kwargs)

    def __repr__(self) -> str:
        count = len(self.entries)
        entries = "not compiled yet" if not count else f"{count} entr{'y' if count == 1 else 'ies'}"
        return f"<compiled {self.__name__}: backend {self.backend_name}, {entries}>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        # A compiled module still offers the module's attributes.
        fn = self.__dict__.get("fn")
        if fn is not None and is_module_like(fn):
            return getattr(fn, name)
        raise AttributeError(f"a compiled function has no attribute {name!r}")

    def _miss(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """No entry answers: compile one, or run the function where that is not possible."""
        if tls.modes and tls.predispatch is None and all(m.ignores_compiled for m in tls.modes):
            with disable_modes():
                return self(*args, **kwargs)
        known = list(self.entries)
        entry = self._entry_for(args, kwargs)
        if entry is None:
            return self.fn(*args, **kwargs)
        inputs = entry.guards.check(args, kwargs)
        if inputs is None and entry.program.reads.effects and all(entry is not e for e in known):
            # The function changed what it reads. It has done so for this call, and not twice.
            inputs = entry.guards.collect(args, kwargs)
        if inputs is None:
            failure = entry.guards.explain(args, kwargs)
            log.record(
                "fallback", f"the new entry's own guards fail: {failure}", function=self.__name__
            )
            return self.fn(*args, **kwargs)
        run = entry.run
        return self.fn(*args, **kwargs) if run is None else entry.finish(run(inputs))

    def _entry_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry | None:
        """The entry for this call, compiled if there is none; None if the call runs eagerly."""
        if self._run_eagerly_because() is not None:
            return None
        for leaf in flatten_call(args, kwargs)[0]:
            refuse_donated(self.__name__, leaf.value)
        with self._lock:
            for entry in self.entries:  # another thread may have compiled it meanwhile
                if entry.guards.check(args, kwargs) is not None:
                    return entry
            if not self._may_recompile(args, kwargs):
                return None
            saving, tls.saving = tls.saving, None  # the traces' own tapes keep what they save
            try:
                entry = self._compile(args, kwargs)
            except Exception as error:
                self._note_failure(error)
                raise
            finally:
                tls.saving = saving
            self.entries.insert(0, entry)
            return entry

    def _run_eagerly_because(self) -> str | None:
        if tls.predispatch is not None:
            return "called inside another trace, which sees through it"
        if tls.modes:
            sees = next((m for m in reversed(tls.modes) if not m.ignores_compiled), tls.modes[-1])
            reason = f"the mode {type(sees).__name__} is active, and sees each operator"
            log.record("fallback", reason, function=self.__name__)
            return reason
        if tls.vmap_levels:
            reason = "called inside vmap, which batches each operator of the function"
            log.record("fallback", reason, function=self.__name__)
            return reason
        if self.runs_eagerly is not None:
            return self.runs_eagerly
        return None

    def _may_recompile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Record why the entries do not answer; False once there are too many of them."""
        if not self.entries:
            return True
        recompile = nearest_failure(self.entries, args, kwargs)
        if recompile is not None:
            self.recompiles.append(recompile)
            log.record(
                "recompile",
                str(recompile.failure),
                function=self.__name__,
                count=len(self.recompiles),
            )
        if len(self.entries) < RECOMPILE_LIMIT:
            return True
        self.runs_eagerly = (
            f"{RECOMPILE_LIMIT} entries were compiled and none answers; nearest: {recompile}"
        )
        log.record("fallback", self.runs_eagerly, function=self.__name__)
        return False

    def _note_failure(self, error: Exception) -> None:
        """Remember why a call could not be compiled, so that what follows from it is no riddle."""
        first, _, _ = str(error).partition("\n")
        text = f"{type(error).__name__}: {first}"
        self.failures[text] = self.failures.get(text, 0) + 1
        if len(self.failures) > MOST_FAILURES:
            self.failures.pop(next(iter(self.failures)))
        log.record("compile_failed", text, function=self.__name__)

    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        account = Account()
        with account:
            entry = self._compile_entry(args, kwargs)
        entry.account = account
        return entry

    def _compile_entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        leaves, _ = flatten_call(args, kwargs)
        self._sizes.observe(leaves)
        with stage("capture"), autocasting(tls.autocast_dtype, {}):
            program = capture(self.fn, args, kwargs, dynamic_dims=self._sizes.is_dynamic)
        try:
            with autocasting(None):  # the casts are in the graph
                compiled, run = self._lower(program)
            if program.autocast_dtype is not None:
                run = _outside_autocast(run)
        except WrapperRefused as reason:
            if self.fullgraph:
                raise
            log.record("fallback", str(reason), function=self.__name__)
            compiled, run = EagerProgram(str(reason)), None
        written = compiled.runtime.meta.mutated_inputs if isinstance(compiled, AOTProgram) else ()
        with stage("guards"):
            guards = build_guards(program, self._names, written)
        aliased = aliased_writes([i.example for i in program.inputs], written)
        if aliased:
            labels = [i.desc.expr() for i in program.inputs for _ in pieces_of(i.example)]
            pairs = ", ".join(f"{labels[i]} and {labels[j]}" for i, j in aliased)
            log.record(
                "fallback", f"written arguments overlap others: {pairs}", function=self.__name__
            )
            run = None
        return Entry(
            number=len(self.entries),
            guards=guards,
            program=program,
            segments=[Segment(run, compiled)],
            finish=_finisher(program),
            run=run,
        )

    def _lower(self, program: CapturedProgram) -> tuple[Any, Callable[[list[Any]], Any] | None]:
        """What the backend made of the program, and how to run it on the program's inputs."""
        if getattr(self.backend, "skips_aot", False):
            call: Compiled = call_backend(
                self.backend, self.backend_name, program.graph, self.options
            )
            return call, lambda inputs: call(*inputs)
        self._note_useless_marks(program.graph)
        specs = [_spec_of(i.example) for i in program.inputs]
        compiled = compile_ahead(
            program.graph,
            specs,
            program.env,
            self.backend,
            backend_name=self.backend_name,
            grad_enabled=program.grad_enabled,
            options=self.options,
            partitioner=self.partitioner,
            donated=self._donated(program),
        )
        return compiled, compiled.runtime.run

    def _note_useless_marks(self, graph: Graph) -> None:
        """Say it where checkpoints and budgets cannot work: there is no second graph to cut off."""
        if not any(node.origin == "backward" for node in graph.nodes):
            return
        if self.memory_budget < 1.0 or any(node.tag is not None for node in graph.nodes):
            log.record(
                "partition",
                "the gradient is taken inside the compiled function, so forward and backward are "
                "one program: checkpoints and memory_budget change nothing in it. Compile the loss "
                "alone and call backward() on its result where they are wanted.",
                function=self.__name__,
            )

    def _donated(self, program: CapturedProgram) -> list[int]:
        """Inputs of the program that come by a donated parameter."""
        found = []
        for number, i in enumerate(program.inputs):
            label = "" if i.access is None else label_of(i.access, self._names)
            if label.partition("[")[0].partition(".")[0] in self.donate:
                found.append(number)
        return found

    def prepare(self, *args: Any, **kwargs: Any) -> bool:
        """Compile for a call like this one, backward included, without running anything.

        False if such a call runs eagerly; the event log has the reason. Raises what the first call
        would raise while it compiles.
        """
        entry = self._entry_for(args, kwargs)
        if entry is None or entry.run is None:
            return False
        compiled = entry.segments[0].compiled
        if isinstance(compiled, AOTProgram) and compiled.backward is not None:
            compiled.backward.compiled()
        return True

    # --- looking inside -----------------------------------------------------------------------

    def _latest(self) -> AOTProgram:
        if not self.entries:
            raise InvalidArgument(f"{self.__name__}: nothing is compiled yet; call it once first.")
        compiled = self.entries[0].segments[0].compiled
        if isinstance(compiled, EagerProgram):
            raise InvalidArgument(f"{self.__name__}: runs eagerly: {compiled.reason}.")
        latest: AOTProgram = compiled
        return latest

    def print_io(self) -> str:
        """Inputs and outputs of the newest entry's joint graph: name, type, descriptor, meaning.

        Then, of a training program, what is saved for the backward and what it computes again.
        """
        return self._latest().print_io()

    def graphs(self) -> dict[str, Graph]:
        """The newest entry's graphs: captured, joint, forward, backward."""
        latest = self._latest()
        found = {
            "captured": latest.captured,
            "joint": latest.joint.graph,
            "forward": latest.forward,
        }
        if latest.backward is not None:
            found["backward"] = latest.backward.graph
        return found

    def kernels(self) -> list[Any]:
        """Native kernels of the newest entry, forward first; an uncompiled backward has none."""
        latest = self._latest()
        made: Sequence[Any] = [latest.forward_compiled, *latest.backward_compiled]
        return [kernel for compiled in made for kernel in getattr(compiled, "kernels", ())]

    def donations(self) -> dict[str, str]:
        """What became of each tensor that the newest entry may overwrite, by its name.

        Of those that were donated, and those that the function writes.
        """
        return self._latest().donations()

    def explain_guards(self) -> list[str]:
        """The conditions of the newest entry, one line each, then what could not be guarded."""
        self._latest()
        entry = self.entries[0]
        unguarded = [
            f"unguarded: {text} ({why})" for text, why in entry.program.reads.unguarded.items()
        ]
        return entry.guards.describe() + unguarded


@dataclass(frozen=True, slots=True)
class EagerProgram:
    """Stands for a program that was not compiled, with the reason."""

    reason: str


def _spec_of(example: Tensor) -> InputSpec:
    recipe = recipe_of(example)
    if recipe is None:
        return InputSpec(example.requires_grad, example.is_leaf)
    pieces = pieces_of(example)
    if any(p.requires_grad for p in pieces):
        raise WrapperRefused(
            f"an inner tensor of a {type(example).__name__} requires grad itself, where the tape "
            "of the compiled function is above the wrapper; detach it"
        )
    metas = tuple(p.meta for p in pieces)
    return InputSpec(example.requires_grad, example.is_leaf, recipe, metas)


def _checked_donate(donate: tuple[str, ...], names: tuple[str, ...]) -> frozenset[str]:
    for name in donate:
        if name not in names:
            raise InvalidArgument(
                f"compile: argument 'donate' names {name!r}; expected parameters of the function, "
                f"which are {', '.join(names) or 'none'}."
            )
    return frozenset(donate)


def _parameter_names(fn: Any) -> tuple[str, ...]:
    target = fn.forward if is_module_like(fn) and hasattr(fn, "forward") else fn
    try:
        return tuple(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return ()


def _finisher(program: CapturedProgram) -> Callable[[Any], Any]:
    """From flat outputs to the function's result."""
    spec = program.out_spec
    if spec.is_leaf():
        return _only
    if spec == optree.tree_structure((0,) * spec.num_leaves, none_is_leaf=True):
        return tuple
    return lambda outputs: optree.tree_unflatten(spec, outputs)


def _outside_autocast(run: Callable[[list[Any]], Any] | None) -> Any:
    """``run`` of a program that was captured inside autocast: its casts are in the graph."""
    if run is None:
        return None

    def run_outside(inputs: list[Any]) -> Any:
        with autocasting(None):
            return run(inputs)

    return run_outside


def _only(outputs: Sequence[Any]) -> Any:
    return outputs[0]
