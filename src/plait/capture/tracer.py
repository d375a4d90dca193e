"""Running a user's function once on fakes, and recording what it does above autograd.

Owns the capture mode (the PreDispatch slot), the lifting of tensors met on the way, and the
restoration of everything the trace touched. The result is a :class:`CapturedProgram`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optree

from plait.autograd.graph import Node
from plait.base.errors import CaptureError, DeviceMismatch
from plait.base.names import identifier
from plait.capture.fake import FakeMode, fake_like, meta_of
from plait.capture.modules import ModuleState, OwnedTensor, is_module_like, swapped
from plait.capture.proxy import Recorder, graph_meta
from plait.capture.reads import (
    ExternalReads,
    Place,
    extend_with_code,
    is_guardable,
    note_effect,
    note_effects,
    reads_of,
    snapshot,
)
from plait.capture.shape_env import ShapeEnv
from plait.capture.signature import Leaf, Structure, flatten_call, label_of, rebuild
from plait.capture.source import at_user_line, is_library_file, user_stack
from plait.capture.traced import TracedTensor
from plait.capture.wrappers import TracedWrappers
from plait.dispatch.keys import DispatchKey
from plait.dispatch.modes import PreDispatchMode
from plait.dispatch.operator import Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.state import tls
from plait.ir.descriptors import (
    AOTInput,
    BufferAOTInput,
    CapturedAOTInput,
    ParamAOTInput,
    PlainAOTInput,
    PlainAOTOutput,
)
from plait.ir.graph import Graph, Value
from plait.symbolic.symint import SymInt
from plait.tensor.device import CPU
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor

__all__ = ["CapturedProgram", "ProgramInput", "capture"]


@dataclass(slots=True)
class ProgramInput:
    """One tensor input of a captured program and how a later call finds it.

    Exactly one of ``access`` (an expression over the call's arguments), ``owned`` (a module's
    table) and ``place`` (an external read) is set; a tensor with none is held itself, by identity.
    """

    desc: AOTInput
    value: Value
    example: Tensor
    access: str | None = None
    owned: OwnedTensor | None = None
    place: Place | None = None


@dataclass(slots=True)
class CapturedProgram:
    """A graph above autograd, its inputs, the shape of its result, and what its guards need."""

    graph: Graph
    inputs: list[ProgramInput]
    leaves: list[Leaf]
    structures: list[Structure]
    out_spec: Any
    env: ShapeEnv
    reads: ExternalReads
    module_roots: list[tuple[Any, str]]
    grad_enabled: bool
    autocast_dtype: Any = None
    grad_enabled_after: bool = True
    by_identity: list[ProgramInput] = field(default_factory=list)


def function_operator(cls: Any, arguments: int, results: int) -> Overload:
    """The operator that stands for ``cls.apply`` in a graph: opaque arguments, tensor results."""
    declared = ", ".join(f"Any arg{i}" for i in range(arguments))
    returned = ", ".join(["Tensor"] * results)
    schema = f"plait::{identifier(cls.__name__)}.apply({declared}) -> ({returned})"
    op = Overload(FunctionSchema.parse(schema))
    op.call = cls.apply
    op.kind = "autograd_function"
    return op


class OuterHistory(Node):
    """Stands for the tape of an argument that is not a leaf: the trace does not look behind it."""

    def apply(self, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return ()


class CaptureMode(PreDispatchMode):
    """Records every outermost operator call, with the user's stack, and lifts unknown tensors."""

    def __init__(self, program_inputs: list[ProgramInput], reads: ExternalReads) -> None:
        self.recorder = Recorder("captured", self._lift)
        self.inputs = program_inputs
        self.reads = reads
        self.lifted: dict[int, tuple[Tensor, Tensor]] = {}  # id of a real tensor -> (it, its fake)
        self._codes: set[int] = set()
        self.wrappers = TracedWrappers(self.recorder)

    def __plait_predispatch__(
        self,
        op: Overload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        redispatch: Callable[..., Any],
    ) -> Any:
        args, kwargs = self._faked(args), {k: self._faked(v) for k, v in kwargs.items()}
        if op.is_composite and tls.grad_enabled and any(t._requires_grad for t in tensors_in(args)):
            # The tape may be differentiated inside the trace: what it saves must be graph values.
            return op.composite_body(*args, **kwargs)
        if self.wrappers.met:
            self.wrappers.check(tensors_in(args))
        results = redispatch(*args, **kwargs)
        if self.wrappers.met:
            self.wrappers.know_again(tensors_in(args))  # handlers may have given them others
        self.wrappers.know(results)
        recorder = self.recorder
        recorder.source = user_stack()
        recorder.origin = "forward" if tls.backward_node is None else "backward"
        recorder.tag = None if tls.checkpoint is None else tls.checkpoint.tag_of(op)
        recorder.record(op, args, kwargs, results)
        self._note_frames()
        return results

    def __plait_function__(self, cls: Any, args: tuple[Any, ...], run: Callable[..., Any]) -> Any:
        """One node for a user's autograd.Function, which is applied again wherever the graph runs.

        ``run`` applies it here, unseen by this mode, so that its forward is not recorded apart from
        its backward.
        """
        args = self._faked(args)
        saved = tls.exclude
        tls.exclude = saved | DispatchKey.PRE_DISPATCH.mask
        try:
            results = run(*args)
        finally:
            tls.exclude = saved
        self.wrappers.know(results)
        count = len(results) if isinstance(results, tuple | list) else 1
        self.recorder.source = user_stack()
        self.recorder.tag = None if tls.checkpoint is None else tls.checkpoint.tag_of(None)
        self.recorder.record(function_operator(cls, len(args), count), args, {}, results)
        return results

    def _faked(self, item: Any) -> Any:
        """``item`` with every real tensor replaced by the fake that stands for it."""
        if isinstance(item, Tensor):
            return item if item._meta is not None and item.is_fake else self.fake_of(item)
        if isinstance(item, tuple | list):
            return tuple([self._faked(part) for part in item])
        return item

    def fake_of(self, tensor: Tensor) -> Tensor:
        """The fake of a real tensor met on the way, which becomes an input."""
        known = self.lifted.get(id(tensor))
        if known is not None:
            return known[1]
        fake = fake_like(tensor, TracedTensor)
        place = self.reads.tensors.get(id(tensor))
        source = (
            place.text if place is not None else f"<tensor {len(self.lifted)} held by the function>"
        )
        desc = CapturedAOTInput(source)
        value = self.recorder.builder.input(
            graph_meta(tensor), desc, requires_grad=tensor.requires_grad
        )
        self.recorder.bind(fake, value)
        self.wrappers.know(fake)
        self.inputs.append(ProgramInput(desc, value, tensor, place=place))
        self.lifted[id(tensor)] = (tensor, fake)
        return fake

    def _lift(self, tensor: Tensor) -> Value:
        found = self.wrappers.value_of(tensor)
        if found is not None:
            return found
        raise CaptureError(
            f"compile: a tensor of shape {tuple(tensor.shape)} from another trace reached an "
            f"operator{at_user_line()}; expected tensors of this call."
        )

    def _note_frames(self) -> None:
        """Code that runs without being named (a callback, say) is looked at when it is met."""
        frame = sys._getframe(2)
        for _ in range(24):
            code = frame.f_code
            if code.co_name == "_trace_user_function" or frame.f_back is None:
                return
            if id(code) not in self._codes:
                self._codes.add(id(code))
                if not is_library_file(code.co_filename):
                    extend_with_code(self.reads, code, frame.f_globals)
            frame = frame.f_back


def capture(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    dynamic_dims: Callable[[str, int, int], bool],
) -> CapturedProgram:
    """Trace ``fn`` on the metadata of its arguments.

    ``dynamic_dims(access, dim, size)`` says which sizes become symbols. Modes, module tensors and
    thread state are as before afterwards, also when ``fn`` raises.
    """
    leaves, structures = flatten_call(args, kwargs)
    reads = _reads_of_call(fn, leaves)
    env = ShapeEnv()
    roots = _roots(reads)
    before, modules = snapshot(reads), ModuleState(_root_texts(reads, roots))
    names = _parameter_names(fn)
    inputs: list[ProgramInput] = []
    mode = CaptureMode(inputs, reads)
    grad_before = tls.grad_enabled
    saved_env, tls.shape_env = tls.shape_env, env
    try:
        with swapped(roots, TracedTensor) as owned:
            fake_leaves = _fake_arguments(mode, leaves, names, env, dynamic_dims)
            for fake_owner, fake in owned.values():
                _bind_owned(mode, fake_owner, fake)
            fake_args, fake_kwargs = rebuild(args, fake_leaves), rebuild(kwargs, fake_leaves)
            with FakeMode(TracedTensor), mode:
                result = _trace_user_function(fn, fake_args, fake_kwargs)
            grad_after = tls.grad_enabled
            mode.wrappers.check()
            out_spec = _outputs(mode, result)
    finally:
        tls.shape_env = saved_env
        tls.grad_enabled = grad_before
    _drop_unused_inputs(mode.recorder.builder.graph, inputs)
    note_effects(reads, before)
    changed = modules.difference()
    if changed is not None:
        note_effect(reads, changed[0])
    return CapturedProgram(
        graph=mode.recorder.builder.graph,
        inputs=inputs,
        leaves=leaves,
        structures=structures,
        out_spec=out_spec,
        env=env,
        reads=reads,
        module_roots=_root_texts(reads, roots),
        grad_enabled=grad_before,
        autocast_dtype=tls.autocast_dtype,
        grad_enabled_after=grad_after,
        by_identity=[i for i in inputs if i.access is None and i.owned is None and i.place is None],
    )


def _trace_user_function(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return fn(*args, **kwargs)  # the user's stack begins above this frame; see source.user_stack


def _reads_of_call(fn: Callable[..., Any], leaves: list[Leaf]) -> ExternalReads:
    """What ``fn`` and the callables among its arguments read from outside."""
    reads = reads_of(fn, _plain_objects(fn, leaves))
    for leaf in leaves:
        if not isinstance(leaf.value, Tensor) and callable(leaf.value):
            _argument_reads(reads, leaf)
    return reads


def _plain_objects(fn: Callable[..., Any], leaves: list[Leaf]) -> dict[str, Any]:
    """Arguments that are objects of the user's (guarded by identity), by parameter name."""
    names = _parameter_names(fn)
    found = {}
    for leaf in leaves:
        if isinstance(leaf.value, Tensor) or is_guardable(leaf.value) or is_module_like(leaf.value):
            continue
        label = label_of(leaf.access, names)
        if label.isidentifier():
            found[label] = leaf.value
    return found


def _argument_reads(reads: ExternalReads, leaf: Leaf) -> None:
    found = reads_of(leaf.value)
    if is_module_like(leaf.value):
        found.modules[id(leaf.value)] = (leaf.value, leaf.access)
    for mine, theirs in zip(vars(reads).values(), vars(found).values(), strict=True):
        for key, value in theirs.items():
            mine.setdefault(key, value)


def _roots(reads: ExternalReads) -> list[tuple[Any, str]]:
    """(module, prefix) of the modules that no other found module contains."""
    inside: set[int] = set()

    def descend(module: Any) -> None:
        for child in module._modules.values():
            if child is not None and id(child) not in inside:
                inside.add(id(child))
                descend(child)

    for module, _ in reads.modules.values():
        descend(module)
    tops = [(m, text) for key, (m, text) in reads.modules.items() if key not in inside]
    if len(tops) == 1:
        return [(tops[0][0], "")]
    return [(m, f"{text}.") for m, text in tops]


def _root_texts(reads: ExternalReads, roots: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    return [(m, reads.modules[id(m)][1]) for m, _ in roots]


def _parameter_names(fn: Any) -> tuple[str, ...]:
    target = getattr(type(fn), "forward", None) if hasattr(fn, "_parameters") else fn
    try:
        names = tuple(inspect.signature(target).parameters) if target is not None else ()
    except (TypeError, ValueError):
        return ()
    return names[1:] if hasattr(fn, "_parameters") and names else names


def _fake_arguments(
    mode: CaptureMode,
    leaves: list[Leaf],
    names: tuple[str, ...],
    env: ShapeEnv,
    dynamic_dims: Callable[[str, int, int], bool],
) -> list[Any]:
    """The arguments' leaves, with one fake per tensor object, bound to a graph input."""
    fakes: list[Any] = []
    known: dict[int, Tensor] = {}
    storages: dict[int, Any] = {}
    for leaf in leaves:
        value = leaf.value
        if not isinstance(value, Tensor):
            fakes.append(value)
            continue
        if id(value) in known:
            fakes.append(known[id(value)])
            continue
        if value.device != CPU:
            raise DeviceMismatch(
                f"compile: argument {label_of(leaf.access, names)!r} lies on {value.device}; "
                "expected a tensor on cpu."
            )
        if value._is_wrapper:
            fake = fake_like(value, TracedTensor)
        else:
            meta = _argument_meta(value, leaf.access, env, dynamic_dims)
            fake = fake_like(value, TracedTensor, meta)
        shared = storages.setdefault(id(value.storage), fake.storage)
        fake._storage = shared
        if value.requires_grad and not value.is_leaf:
            fake._grad_fn = OuterHistory()
        desc = PlainAOTInput(len(mode.inputs), label_of(leaf.access, names))
        node_value = mode.recorder.builder.input(
            graph_meta(fake), desc, requires_grad=value.requires_grad
        )
        mode.recorder.bind(fake, node_value)
        mode.wrappers.know(fake)
        mode.inputs.append(ProgramInput(desc, node_value, value, access=leaf.access))
        known[id(value)] = fake
        fakes.append(fake)
    return fakes


def _argument_meta(
    tensor: Tensor, access: str, env: ShapeEnv, dynamic_dims: Callable[[str, int, int], bool]
) -> TensorMeta:
    """The metadata of an argument, with symbols for its dynamic sizes."""
    meta = meta_of(tensor)
    shape: list[Any] = list(meta.shape)
    dynamic = [d for d, size in enumerate(shape) if size > 1 and dynamic_dims(access, d, size)]
    if not dynamic:
        return meta
    for d in dynamic:
        shape[d] = env.sym_int(env.size(shape[d]))
    if tensor.is_contiguous():
        return TensorMeta(shape, meta.dtype, meta.device)
    return TensorMeta(shape, meta.dtype, meta.device, _symbolic_strides(meta, shape, env))


def _symbolic_strides(meta: TensorMeta, shape: list[Any], env: ShapeEnv) -> list[Any]:
    """Strides of a dense permuted tensor in terms of its sizes; other strides become fixed."""
    strides: list[Any] = list(meta.strides)
    order = sorted(range(len(shape)), key=lambda d: (meta.strides[d], meta.shape[d]))
    expected_now: int = 1
    expected: Any = 1
    for d in order:
        if meta.strides[d] != expected_now:
            return strides
        strides[d] = expected
        expected_now *= int(meta.shape[d])
        expected = expected * shape[d]
    return strides


def _bind_owned(mode: CaptureMode, owned: OwnedTensor, fake: Tensor) -> None:
    """Make a module's tensor a named input of the graph."""
    desc: AOTInput = ParamAOTInput(owned.name) if owned.is_param else BufferAOTInput(owned.name)
    value = mode.recorder.builder.input(
        graph_meta(fake), desc, requires_grad=owned.tensor.requires_grad
    )
    mode.recorder.bind(fake, value)
    mode.wrappers.know(fake)
    mode.inputs.append(ProgramInput(desc, value, owned.tensor, owned=owned))
    mode.lifted[id(owned.tensor)] = (owned.tensor, fake)


_CONSTANTS = (bool, int, float, complex, str, type(None))


def _outputs(mode: CaptureMode, result: Any) -> Any:
    """Append the leaves of the result as graph outputs; return its treespec."""
    flat, spec = optree.tree_flatten(result, none_is_leaf=True)
    labels = [path.codify("output") for path in spec.accessors()]
    for idx, leaf in enumerate(flat):
        if isinstance(leaf, Tensor):
            item: Any = mode.recorder.value_of(
                leaf if leaf._meta is not None and leaf.is_fake else mode.fake_of(leaf)
            )
        elif isinstance(leaf, SymInt):
            item = leaf.expr
        elif isinstance(leaf, _CONSTANTS):
            item = leaf
        else:
            raise CaptureError(
                f"compile: result {idx} of the function is a {type(leaf).__name__}; expected "
                "tensors, numbers, strings and None, in tuples, lists, dicts or "
                "registered pytree classes."
            )
        mode.recorder.builder.output(item, PlainAOTOutput(idx, labels[idx]))
    return spec


def _drop_unused_inputs(graph: Graph, inputs: list[ProgramInput]) -> None:
    """Module tensors that the trace never touched are not inputs."""
    used = {id(v) for node in graph.nodes for v in node.inputs()}
    used |= {id(v) for v in graph.outputs if isinstance(v, Value)}
    kept = [i for i in inputs if i.owned is None or id(i.value) in used]
    inputs[:] = kept
    graph.inputs[:] = [i.value for i in kept]
