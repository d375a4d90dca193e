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
from plait.tensor.tensor import Tensor, make_fake

__all__ = ["InputSpec", "JointGraph", "trace_joint"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the captured graph as autograd sees it."""

    requires_grad: bool
    is_leaf: bool


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
        inners = [_input_fake(recorder, value, env) for value in captured.inputs]
        primals = [functionalize.wrap(inner, i) for i, inner in enumerate(inners)]
        arguments = [_primal_argument(p, s, training) for p, s in zip(primals, specs, strict=True)]
        with FakeMode(FakeTensor), ProxyMode(recorder), FunctionalMode(random):
            results = run(
                captured,
                arguments,
                before_node=lambda n: _enter(recorder, n),
                evaluate=_evaluator(env),
            )
            recorder.tag = None
            outputs = classify_outputs(results, arguments, captured.outputs)
            infos = input_infos(arguments, specs)
            meta = ViewAndMutationMeta(infos, outputs.infos, len(outputs.bases))
            _forward_returns(recorder, meta, arguments, outputs, captured.output_descs)
            grad_inputs = (
                _backward(recorder, meta, specs, primals, arguments, outputs, env)
                if training
                else []
            )
        meta.num_random_calls = random.calls
    finally:
        tls.grad_enabled, tls.node_source = saved_grad, saved_source
        tls.shape_env = saved_env
    graph = eliminate_dead_code(recorder.builder.graph)
    return JointGraph(graph, meta, grad_inputs, env.hint)


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
        _append(recorder, arguments[i], InputMutationAOTOutput(desc))
    for idx, tensor in outputs.plain:
        _append(recorder, tensor, descs[idx])
    for idx, tensor in outputs.bases:
        _append(recorder, tensor, IntermediateBaseAOTOutput(descs[idx]))


def _append(recorder: Recorder, tensor: Tensor, desc: Any) -> None:
    value = recorder.value_of(functionalize.current(tensor))
    recorder.builder.output(value, desc)


def _backward(
    recorder: Recorder,
    meta: ViewAndMutationMeta,
    specs: Sequence[InputSpec],
    primals: list[Tensor],
    arguments: list[Tensor],
    outputs: Outputs,
    env: ShapeEnv,
) -> list[int]:
    """Trace the tape from the forward returns to the inputs; numbers of those with a gradient."""
    returned = [arguments[i] for i in meta.mutated_inputs]
    returned += [t for _, t in outputs.plain] + [t for _, t in outputs.bases]
    differentiable = [k for k, t in enumerate(returned) if _takes_tangent(t, k, meta)]
    wanted = [i for i, s in enumerate(specs) if s.requires_grad]
    if not differentiable or not wanted:
        return []
    recorder.origin = "backward"
    recorder.locate = _backward_source
    graph = recorder.builder.graph
    tangents = []
    for k in differentiable:
        desc: Any = graph.output_descs[k]
        tangent = _tangent(recorder, returned[k], desc, env)
        meta.tangent_outputs.append(k)
        meta.traced_tangents_descs.append(desc)
        meta.traced_tangents.append(graph_meta(tangent))
        tangents.append(functionalize.wrap(tangent))
    grads = grad(
        [returned[k] for k in differentiable],
        [primals[i] for i in wanted],
        tangents,
        allow_unused=True,
    )
    for i, g in zip(wanted, grads, strict=True):
        primal_desc = graph.inputs[i].desc
        assert isinstance(primal_desc, DifferentiableAOTInput)
        value = None if g is None else recorder.value_of(functionalize.current(g))
        recorder.builder.output(value, GradAOTOutput(primal_desc))
    return wanted


def _takes_tangent(tensor: Tensor, number: int, meta: ViewAndMutationMeta) -> bool:
    if not tensor._requires_grad:
        return False
    mutated = meta.mutated_inputs
    if number < len(mutated):  # a write under no_grad is invisible to autograd
        return not meta.input_info[mutated[number]].mutations_under_no_grad
    return True


def _tangent(recorder: Recorder, output: Tensor, desc: Any, env: ShapeEnv) -> Tensor:
    """The graph input for the cotangent of ``output``, laid out as the output is.

    Contiguous where the output has gaps or repeats, which no cotangent must have.
    """
    inner: TensorMeta = functionalize.current(output).meta
    if not is_dense(inner.shape, inner.strides):
        inner = TensorMeta(inner.shape, inner.dtype, inner.device)
    fake = make_fake(inner, cls=FakeTensor)
    recorder.bind(fake, recorder.builder.input(graph_meta(fake), TangentAOTInput(desc)))
    return fake


def _backward_source() -> Any:
    """The forward line that the running backward rule belongs to."""
    node = tls.backward_node
    return node.source if node is not None else ()
