"""The pipeline: captured graph -> joint graph -> partition -> backend -> runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from plait.aot.donation import Donation, decide_donation
from plait.aot.joint import InputSpec, JointGraph, trace_joint
from plait.aot.partition import PartitionReport
from plait.aot.runtime import BackwardProgram, Compiled, Runtime
from plait.aot.saving import Partitioner, min_cut_partition
from plait.aot.wrapper_runtime import WrapperRuntime
from plait.base import log
from plait.base.account import Account, stage
from plait.base.config import config
from plait.base.errors import BackendCompilerFailed, PlaitError
from plait.capture.shape_env import ShapeEnv
from plait.ir.graph import Graph
from plait.ir.verify import verify

__all__ = ["AOTProgram", "Backend", "compile_ahead"]

Backend = Callable[..., Compiled]


@dataclass(slots=True)
class AOTProgram:
    """One function compiled ahead of time: its graphs and its runtime.

    ``joint`` is the joint graph of a training program, else the forward graph alone. What the
    backward took to compile, at its first use, is in an account of its own.
    """

    captured: Graph
    joint: JointGraph
    forward: Graph
    backward: BackwardProgram | None
    runtime: Runtime
    forward_compiled: Compiled
    backward_account: Account = field(default_factory=Account)
    backward_compiled: list[Compiled] = field(default_factory=list)
    partition: PartitionReport | None = None  # of a training program, unless its maker gave none

    def donations(self) -> dict[str, str]:
        """What became of each input whose memory results may take, by its name."""
        graph, donation = self.forward, self.runtime.donation
        reused = getattr(self.forward_compiled, "reused", {})
        kept = getattr(self.forward_compiled, "kept", {})
        found: dict[str, str] = {}
        for i in sorted({*graph.reusable, *donation.refused}):
            desc = graph.inputs[i].desc
            name = str(i) if desc is None else desc.expr()
            if i in reused:
                found[name] = f"holds {graph.output_descs[reused[i]].expr()}"
            else:
                reason = donation.refused.get(i) or kept.get(i, "the backend reuses no memory")
                found[name] = f"not overwritten: {reason}"
        return found

    def print_io(self) -> str:
        """The inputs and outputs of the joint graph, and what the partitioner decided."""
        table = self.joint.graph.print_io()
        return table if self.partition is None else f"{table}\n{self.partition}"


def compile_ahead(
    captured: Graph,
    specs: Sequence[InputSpec],
    env: ShapeEnv,
    backend: Backend,
    *,
    backend_name: str,
    grad_enabled: bool,
    options: dict[str, Any],
    partitioner: Partitioner = min_cut_partition,
    donated: Sequence[int] = (),
) -> AOTProgram:
    """Compile ``captured`` for inputs as ``specs`` say, cut by ``partitioner``.

    A training program is made if grad mode is on and some input requires grad, unless no output
    does. ``donated`` are inputs whose memory results may take. BackendCompilerFailed wraps what the
    backend raises.
    """
    if config.verify:
        verify(captured)
    training = grad_enabled and any(s.requires_grad for s in specs)
    with stage("joint trace"):
        joint = trace_joint(captured, specs, env, training=training)
    compiled_backward: list[Compiled] = []
    account = Account()

    def compile_graph(graph: Graph) -> Compiled:
        return call_backend(backend, backend_name, graph, options)

    def compile_backward(graph: Graph) -> Compiled:
        with account:
            compiled = compile_graph(graph)
        compiled_backward.append(compiled)
        return compiled

    backward: BackwardProgram | None = None
    report: PartitionReport | None = None
    if joint.is_training:
        with stage("partition"):
            cut = partitioner(joint)
        forward, report = cut.forward, cut.report
        joint.meta.num_saved = len(cut.saved)
        backward = BackwardProgram(
            cut.backward,
            compile_backward,
            saved_is_input=cut.saved_is_input,
            symbols=cut.symbols,
            grad_inputs=joint.grad_inputs
            if joint.layout is None
            else [i for i, _ in joint.layout.grads],
            tangents=joint.meta.traced_tangents,
        )
    else:
        forward = joint.graph
        if config.verify:
            verify(forward, functional=True)
    forward.name = "forward"
    donation = _donation(joint, forward, donated, has_backward=backward is not None)
    forward.reusable = donation.reusable
    env.frozen = True
    compiled = compile_graph(forward)
    parts = (joint.meta, forward, compiled, backward, donation)
    runtime = Runtime(*parts) if joint.layout is None else WrapperRuntime(*parts, joint.layout)
    return AOTProgram(
        captured, joint, forward, backward, runtime, compiled, account, compiled_backward, report
    )


def _donation(
    joint: JointGraph, forward: Graph, donated: Sequence[int], *, has_backward: bool
) -> Donation:
    """What the forward may overwrite; of a program with wrappers, what it writes anyway alone."""
    if joint.layout is not None and donated:
        log.record("donation", "the function takes wrappers, so nothing is overwritten")
        donated = ()
    return decide_donation(forward, joint.meta, donated, has_backward=has_backward)


def call_backend(backend: Backend, name: str, graph: Graph, options: dict[str, Any]) -> Compiled:
    """Compile one graph; anything but our own errors for the user's input comes out wrapped."""
    try:
        with stage("backend"):
            compiled = backend(graph, options)
    except PlaitError:
        raise
    except Exception as error:
        raise BackendCompilerFailed(name, error) from error
    if not callable(compiled):
        inner = TypeError(f"the backend returned a {type(compiled).__name__}; expected a callable")
        raise BackendCompilerFailed(name, inner)
    return compiled
