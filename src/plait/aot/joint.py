"""Tracing a captured graph into a functional one: forward alone, or forward and backward joined.

One run of the graph on functional fakes tells what aliases and what is written, and records the
forward; the tape that this run built is then differentiated, and the engine's operators are
recorded as the backward. The tape is traced, never re-implemented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plait.aot import functionalize
from plait.aot.analysis import Outputs, classify_outputs, input_infos
from plait.aot.functionalize import FunctionalMode
from plait.aot.metadata import ViewAndMutationMeta
from plait.aot.wrapper_layout import (
    Flattened,
    WrapperLayout,
    around,
    layout_of,
    piece_input,
    piece_output,
    refuse_replaced,
)
from plait.autograd.functional import grad
from plait.autograd.graph import Node as TapeNode
from plait.autograd.graph import set_history
from plait.autograd.views import gradient_edge
from plait.capture.fake import FakeMode, FakeTensor
from plait.capture.proxy import ProxyMode, Recorder, graph_meta
from plait.capture.shape_env import ShapeEnv
from plait.dispatch.state import tls
from plait.ir.descriptors import (
    AOTOutput,
    DifferentiableAOTInput,
    GradAOTOutput,
    InputMutationAOTOutput,
    IntermediateBaseAOTOutput,
    PhiloxForwardBaseOffsetAOTInput,
    PhiloxForwardSeedAOTInput,
    TangentAOTInput,
)
from plait.ir.graph import Graph, IntType, Node, Value
from plait.ir.interpret import run
from plait.ir.passes.dce import eliminate_dead_code
from plait.symbolic.expr import Expr
from plait.tensor.layout import TensorMeta, is_dense
from plait.tensor.tensor import Tensor, make_fake, shallow_copy
from plait.tensor.wrapper_recipe import Recipe, pieces_of, recipe_of

__all__ = ["InputSpec", "JointGraph", "trace_joint"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the captured graph as autograd sees it."""

    requires_grad: bool
    is_leaf: bool
    recipe: Recipe | None = None  # of a wrapper, which the graph sees as its plain tensors
    pieces: tuple[TensorMeta, ...] = ()  # types of these


def as_known(expr: Expr) -> int:
    """The value of an expression without symbols."""
    return int(expr.evaluate({}))


@dataclass(slots=True)
class JointGraph:
    """A functional graph: its outputs are the forward returns, then gradients of inputs.

    ``grad_inputs`` are the numbers of the inputs that have a gradient output; empty for inference.
    """

    graph: Graph
    meta: ViewAndMutationMeta
    grad_inputs: list[int]
    hint: Callable[[Expr], int] = as_known  # of a symbolic size, for the cost of saving
    layout: WrapperLayout | None = None  # where wrappers went; None: there are none

    @property
    def is_training(self) -> bool:
        return bool(self.grad_inputs)


class _Identity(TapeNode):
    """Gives a differentiable input a history, so that it may be written as eager's non-leaf may."""

    def apply(self, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return grads


class _GraphRandom:
    """Numbers the random calls of one graph: call k is (seed, base + k)."""

    def __init__(self, recorder: Recorder, env: ShapeEnv) -> None:
        self.recorder = recorder
        self.env = env
        self.calls = 0
        self.seed: Expr | None = None
        self.base: Expr | None = None

    def next_call(self) -> tuple[Any, Any]:
        if self.seed is None or self.base is None:
            builder = self.recorder.builder
            self.seed = self.env.fresh("philox_seed", 0)
            self.base = self.env.fresh("philox_base_call", 0)
            builder.input(IntType(self.seed), PhiloxForwardSeedAOTInput())
            builder.input(IntType(self.base), PhiloxForwardBaseOffsetAOTInput())
        number = self.base + self.calls
        self.calls += 1
        return self.env.sym_int(self.seed), self.env.sym_int(number)


def trace_joint(
    captured: Graph, specs: Sequence[InputSpec], env: ShapeEnv, *, training: bool
) -> JointGraph:
    """Functionalise ``captured`` and, if ``training``, join its backward.

    Thread state is restored also when the trace fails.
    """
    recorder = Recorder("joint" if training else "forward")
    random = _GraphRandom(recorder, env)
    saved_grad, saved_source = tls.grad_enabled, tls.node_source
    saved_env, tls.shape_env = tls.shape_env, env
    env.restart()
    tls.grad_enabled = training
    tls.node_source = lambda: recorder.source
    try:
        primals = _primals(recorder, captured.inputs, specs, env)
        arguments = [_primal_argument(p, s, training) for p, s in zip(primals, specs, strict=True)]
        given = [pieces_of(a) for a in arguments]
        with FakeMode(FakeTensor), ProxyMode(recorder), FunctionalMode(random):
            results = run(
                captured,
                arguments,
                before_node=lambda n: _enter(recorder, n),
                evaluate=_evaluator(env),
            )
            recorder.tag = None
            refuse_replaced(arguments, given)
            layout = layout_of(specs, arguments, results)
            flat = Flattened.of(arguments, results, specs, captured, _piece_spec)
            outputs = classify_outputs(flat.results, flat.arguments, flat.declared)
            infos = input_infos(flat.arguments, flat.specs)
            meta = ViewAndMutationMeta(infos, outputs.infos, len(outputs.bases))
            _forward_returns(recorder, meta, flat.arguments, outputs, flat.descs)
            trace = _Backward(recorder, meta, captured, specs, primals, env, layout)
            grad_inputs = trace.run(flat, outputs, results) if training else []
        meta.num_random_calls = random.calls
    finally:
        tls.grad_enabled, tls.node_source = saved_grad, saved_source
        tls.shape_env = saved_env
    graph = eliminate_dead_code(recorder.builder.graph)
    return JointGraph(graph, meta, grad_inputs, env.hint, layout)


def _evaluator(env: ShapeEnv) -> Any:
    def evaluate(expr: Expr, symbols: dict[str, Any]) -> Any:
        return env.sym_int(expr) if expr.free_symbols else expr.evaluate({})

    return evaluate


def _enter(recorder: Recorder, node: Node) -> None:
    recorder.source = node.source
    recorder.origin = node.origin
    recorder.tag = node.tag


def _traced_meta(meta: TensorMeta, env: ShapeEnv) -> TensorMeta:
    """A graph type with its Exprs as SymInts, so that shape rules can compute with them."""

    def size(s: Any) -> Any:
        return env.sym_int(s) if isinstance(s, Expr) else s

    return TensorMeta(
        [size(s) for s in meta.shape], meta.dtype, meta.device, [size(s) for s in meta.strides]
    )


def _primals(
    recorder: Recorder, inputs: Sequence[Value], specs: Sequence[InputSpec], env: ShapeEnv
) -> list[Tensor]:
    """Functional tensors for the inputs, a wrapper over such where a wrapper comes in."""
    primals: list[Tensor] = []
    count = 0
    for value, spec in zip(inputs, specs, strict=True):
        if spec.recipe is None:
            primals.append(functionalize.wrap(_input_fake(recorder, value, env), count))
            count += 1
            continue
        assert value.desc is not None
        pieces = []
        for path, meta in zip(spec.recipe.paths(), spec.pieces, strict=True):
            fake = make_fake(meta, cls=FakeTensor)
            name = "_".join((value.name, *path))
            mine = recorder.builder.input(meta, piece_input(value.desc, path), name=name)
            recorder.bind(fake, mine)
            pieces.append(functionalize.wrap(fake, count))
            count += 1
        primals.append(spec.recipe.rebuild(iter(pieces)))
    return primals


def _piece_spec() -> InputSpec:
    """An inner tensor of a wrapper: the tape is above it."""
    return InputSpec(False, True)


def _input_fake(recorder: Recorder, value: Value, env: ShapeEnv) -> Tensor:
    assert isinstance(value.type, TensorMeta) and value.desc is not None
    fake = make_fake(_traced_meta(value.type, env), cls=FakeTensor)
    mine = recorder.builder.input(
        value.type, value.desc, name=value.name, requires_grad=value.requires_grad
    )
    recorder.bind(fake, mine)
    return fake


def _primal_argument(primal: Tensor, spec: InputSpec, training: bool) -> Tensor:
    """The tensor that the graph runs on: the primal, or, for a non-leaf, a copy with a history."""
    if not (training and spec.requires_grad):
        return primal
    primal._requires_grad = True
    if spec.is_leaf:
        return primal
    if spec.recipe is not None:
        outer = shallow_copy(primal)
        set_history(outer, _Identity((gradient_edge(primal),)), 0)
        return outer
    handle = functionalize.handle_of(primal)
    argument = functionalize.wrap(handle.inner, handle.storage.input_index)
    set_history(argument, _Identity((gradient_edge(primal),)), 0)
    return argument


def _forward_returns(
    recorder: Recorder,
    meta: ViewAndMutationMeta,
    arguments: list[Tensor],
    outputs: Outputs,
    descs: list[AOTOutput],
) -> None:
    """Append mutated inputs, plain outputs (``descs`` of the captured graph) and bases."""
    graph = recorder.builder.graph
    for i in meta.mutated_inputs:
        desc = graph.inputs[i].desc
        assert desc is not None
        _append(recorder, arguments[i], around(InputMutationAOTOutput, desc))
    for idx, tensor in outputs.plain:
        _append(recorder, tensor, descs[idx])
    for idx, tensor in outputs.bases:
        _append(recorder, tensor, around(IntermediateBaseAOTOutput, descs[idx]))


def _append(recorder: Recorder, tensor: Tensor, desc: Any) -> None:
    value = recorder.value_of(functionalize.current(tensor))
    recorder.builder.output(value, desc)


class _Backward:
    """Traces the tape from what the forward returns to its inputs, on wrappers where there are any.

    The graph gets the plain tensors of tangents and gradients.
    """

    def __init__(
        self,
        recorder: Recorder,
        meta: ViewAndMutationMeta,
        captured: Graph,
        specs: Sequence[InputSpec],
        primals: list[Tensor],
        env: ShapeEnv,
        layout: WrapperLayout | None,
    ) -> None:
        self.recorder = recorder
        self.meta = meta
        self.captured = captured
        self.specs = specs
        self.primals = primals
        self.env = env
        self.layout = layout
        self.sources: list[Tensor] = []
        self.tangents: list[Tensor] = []

    def run(self, flat: Flattened, outputs: Outputs, results: Sequence[Any]) -> list[int]:
        """The input number of each gradient output; empty if nothing is differentiable."""
        meta, recorder, layout = self.meta, self.recorder, self.layout
        returned = [flat.arguments[i] for i in meta.mutated_inputs]
        returned += [t for _, t in outputs.plain] + [t for _, t in outputs.bases]
        differentiable = [k for k, t in enumerate(returned) if _takes_tangent(t, k, meta)]
        wrapped = [] if layout is None else layout.differentiable(results, meta)
        wanted = [i for i, s in enumerate(self.specs) if s.requires_grad]
        if not (differentiable or wrapped) or not wanted:
            return []
        recorder.origin = "backward"
        recorder.locate = _backward_source
        for k in differentiable:
            self._take(returned[k], recorder.builder.graph.output_descs[k], k)
        for number, recipe, places in wrapped:
            self._take_wrapper(results[number], number, recipe, places)
        found = grad(
            self.sources, [self.primals[i] for i in wanted], self.tangents, allow_unused=True
        )
        return self._give(wanted, found)

    def _take(self, tensor: Tensor, desc: Any, place: int) -> None:
        """A tangent for a plain return."""
        tangent = _tangent(self.recorder, tensor, TangentAOTInput(desc))
        self._note(tangent, desc, place)
        self.sources.append(tensor)
        self.tangents.append(functionalize.wrap(tangent))
        if self.layout is not None:
            self.layout.tangents.append((place, None))

    def _take_wrapper(self, wrapper: Tensor, number: int, recipe: Recipe, places: Any) -> None:
        """A tangent of the class of a returned wrapper, as one input for each plain tensor."""
        desc: Any = self.captured.output_descs[number]
        pieces = []
        inner = zip(pieces_of(wrapper), recipe.paths(), places, strict=True)
        for piece, path, place in inner:
            tangent = _tangent(self.recorder, piece, piece_input(TangentAOTInput(desc), path))
            self._note(tangent, piece_output(desc, path), place)
            pieces.append(functionalize.wrap(tangent))
        self.sources.append(wrapper)
        self.tangents.append(recipe.rebuild(iter(pieces)))
        assert self.layout is not None
        self.layout.tangents.append((number, recipe))

    def _note(self, tangent: Tensor, desc: Any, place: int) -> None:
        self.meta.tangent_outputs.append(place)
        self.meta.traced_tangents_descs.append(desc)
        self.meta.traced_tangents.append(graph_meta(tangent))

    def _give(self, wanted: list[int], grads: Sequence[Tensor | None]) -> list[int]:
        """Append the gradients to the outputs."""
        builder = self.recorder.builder
        numbers = []
        for i, g in zip(wanted, grads, strict=True):
            primal = self.captured.inputs[i].desc
            assert isinstance(primal, DifferentiableAOTInput)
            recipe = recipe_of(g)
            if self.layout is not None:
                self.layout.grads.append((i, recipe))
            pieces: list[Any] = [None] if g is None else pieces_of(g)
            paths = [()] if recipe is None else recipe.paths()
            for piece, path in zip(pieces, paths, strict=True):
                value = None
                if piece is not None:
                    value = self.recorder.value_of(functionalize.current(piece))
                builder.output(value, piece_output(GradAOTOutput(primal), path))
                numbers.append(i)
        return numbers


def _takes_tangent(tensor: Tensor, number: int, meta: ViewAndMutationMeta) -> bool:
    if not tensor._requires_grad:
        return False
    mutated = meta.mutated_inputs
    if number < len(mutated):  # a write under no_grad is invisible to autograd
        return not meta.input_info[mutated[number]].mutations_under_no_grad
    return True


def _tangent(recorder: Recorder, output: Tensor, desc: Any) -> Tensor:
    """The graph input for the cotangent of ``output``, laid out as the output is.

    Contiguous where the output has gaps or repeats, which no cotangent must have.
    """
    inner: TensorMeta = functionalize.current(output).meta
    if not is_dense(inner.shape, inner.strides):
        inner = TensorMeta(inner.shape, inner.dtype, inner.device)
    fake = make_fake(inner, cls=FakeTensor)
    recorder.bind(fake, recorder.builder.input(graph_meta(fake), desc))
    return fake


def _backward_source() -> Any:
    """The forward line that the running backward rule belongs to."""
    node = tls.backward_node
    return node.source if node is not None else ()
