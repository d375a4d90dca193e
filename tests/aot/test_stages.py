"""Ahead-of-time autograd stage by stage: metadata, descriptors, cut, runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import plait
from plait.aot.metadata import OutputType
from plait.ir.descriptors import GradAOTOutput, ParamAOTInput, TangentAOTInput
from plait.ir.graph import Graph, IntType, Value
from plait.ir.verify import verify
from plait.tensor.tensor import Tensor
from plait.testing.programs import PROGRAMS, Program

BY_NAME = {p.name: p for p in PROGRAMS}


def compiled_program(p: Program, dynamic: bool) -> Any:
    compiled = plait.compile(p.fn, backend="aot_eager", dynamic=dynamic)
    compiled(*p.inputs(6))
    return compiled.entries[0].segments[0].compiled


@pytest.mark.spec("D3")
@pytest.mark.spec("D6")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_every_input_and_output_of_every_graph_has_a_descriptor(p: Program, dynamic: bool) -> None:
    aot = compiled_program(p, dynamic)
    graphs: list[Graph] = [aot.captured, aot.joint.graph, aot.forward]
    if aot.backward is not None:
        graphs.append(aot.backward.graph)
    for graph in graphs:
        verify(graph)
        assert all(v.desc is not None and v.desc.expr() for v in graph.inputs)
        assert len(graph.output_descs) == len(graph.outputs)
        assert all(d.expr() for d in graph.output_descs)
        rows = graph.print_io().splitlines()
        assert len(rows) == 1 + len(graph.inputs) + len(graph.outputs)


@pytest.mark.spec("C3")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_counts_of_the_metadata_are_those_of_the_graph(p: Program, dynamic: bool) -> None:
    aot = compiled_program(p, dynamic)
    meta = aot.runtime.meta
    returns = meta.num_forward_returns
    assert len(aot.joint.graph.outputs) == returns + len(aot.joint.grad_inputs)
    made = sum(place is None for place in aot.backward.saved_is_input) if aot.backward else 0
    assert len(aot.forward.outputs) == returns + made


@pytest.mark.spec("C16")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_emitted_hot_path_equals_the_reference_method(p: Program, dynamic: bool) -> None:
    runtime = compiled_program(p, dynamic).runtime
    tensors = [[t for t in p.inputs(6) if isinstance(t, Tensor)] for _ in range(2)]
    emitted, reference = runtime.run(tensors[0]), runtime.run_reference(tensors[1])
    assert len(emitted) == len(reference)
    for a, b in zip(emitted, reference, strict=True):
        if isinstance(a, Tensor):
            assert a.requires_grad == b.requires_grad and a.stride() == b.stride()
            np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
        else:
            assert a == b


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("pointwise_chain", [OutputType.NON_ALIAS]),
        ("output_is_input", [OutputType.IS_INPUT, OutputType.NON_ALIAS]),
        ("output_views_input", [OutputType.ALIAS_OF_INPUT] * 2),
        ("lone_view_of_intermediate", [OutputType.NON_ALIAS]),
        ("two_views_of_one_intermediate", [OutputType.ALIAS_OF_INTERMEDIATE] * 2),
        ("view_and_its_base", [OutputType.ALIAS_OF_INTERMEDIATE] * 2),
        ("same_output_twice", [OutputType.NON_ALIAS, OutputType.SAME_OUTPUT]),
        ("written_input_returned", [OutputType.IS_INPUT]),
        ("view_of_written_input", [OutputType.ALIAS_OF_INPUT]),
    ],
)
def test_kinds_of_outputs(name: str, kinds: list[OutputType]) -> None:
    meta = compiled_program(BY_NAME[name], dynamic=False).runtime.meta
    assert [o.output_type for o in meta.output_info] == kinds


def test_mutations_are_seen_with_their_grad_mode() -> None:
    written = compiled_program(BY_NAME["input_written"], False).runtime.meta.input_info
    assert [i.mutates_data for i in written] == [True, False]
    assert not written[0].mutations_under_no_grad
    quiet = compiled_program(BY_NAME["written_under_no_grad"], False).runtime.meta.input_info
    assert quiet[0].mutates_data and quiet[0].mutations_under_no_grad


def test_gradients_pair_with_parameters_and_tangents_with_outputs() -> None:
    model = plait.nn.Sequential(plait.nn.Linear(4, 3), plait.nn.ReLU(), plait.nn.Linear(3, 2))
    compiled = plait.compile(model, backend="aot_eager")
    compiled(plait.ones(5, 4))
    joint = compiled.graphs()["joint"]
    params = [v.desc for v in joint.inputs if isinstance(v.desc, ParamAOTInput)]
    grads = [d.grad_of for d in joint.output_descs if isinstance(d, GradAOTOutput)]
    assert params == grads and len(params) == 4
    tangents = [v.desc.output for v in joint.inputs if isinstance(v.desc, TangentAOTInput)]
    assert tangents == [joint.output_descs[0]]
    assert "_0_weight" in [v.name for v in joint.inputs]


@pytest.mark.spec("C6")
def test_backward_nodes_tell_the_forward_line() -> None:
    def f(x: Any) -> Any:
        y = x.sin()
        return (y * y).sum()

    compiled = plait.compile(f, backend="aot_eager")
    compiled(plait.ones(3, requires_grad=True))
    first = f.__code__.co_firstlineno
    lines = {n.op.name: n.source[-1][1] for n in compiled.graphs()["backward"].nodes if n.source}
    assert lines["cos"] == first + 1


def test_forward_is_functional_and_backward_is_compiled_lazily() -> None:
    aot = compiled_program(BY_NAME["intermediate_written_through_views"], False)
    verify(aot.forward, functional=True)
    assert not aot.backward.is_compiled


def test_symbols_that_no_saved_tensor_shows_pass_as_ints() -> None:
    compiled = plait.compile(lambda x: x.sum(), backend="aot_eager", dynamic=True)
    for rows in (3, 5):
        x = plait.ones(rows, 2, requires_grad=True)
        compiled(x).backward()
        assert x.grad is not None and x.grad.tolist() == [[1.0, 1.0]] * rows
    backward = compiled.graphs()["backward"]
    assert [v.name for v in backward.inputs if isinstance(v.type, IntType)]
    assert all(isinstance(v, Value) for v in backward.inputs)


@pytest.mark.spec("C8")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "llvm"])
def test_dropout_draws_the_same_numbers(backend: str) -> None:
    def f(x: Any) -> Any:
        return plait.dropout(x, 0.5, True) + plait.dropout(x, 0.25, True)

    compiled = plait.compile(f, backend=backend)
    x, y = plait.ones(64, 9, requires_grad=True), plait.ones(64, 9, requires_grad=True)
    plait.manual_seed(7)
    expected = [f(x) for _ in range(3)]
    after = plait.rand(4)
    plait.manual_seed(7)
    got = [compiled(y) for _ in range(3)]
    np.testing.assert_array_equal(plait.rand(4).numpy(), after.numpy())
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    sum(e.sum() for e in expected).backward()
    sum(g.sum() for g in got).backward()
    assert x.grad is not None and y.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.grad.numpy())
    assert not np.array_equal(got[0].detach().numpy(), got[1].detach().numpy())


def test_user_defined_function_keeps_its_backward() -> None:
    class Twice(plait.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2.0

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * 100.0 + x * 0.0

    compiled = plait.compile(lambda x: Twice.apply(x).sum(), backend="aot_eager")
    x = plait.ones(3, requires_grad=True)
    compiled(x).backward()
    assert x.grad is not None and x.grad.tolist() == [100.0] * 3
