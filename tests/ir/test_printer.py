"""A printed graph runs as Python and means what the interpreter says."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.ir.interpret import run
from plait.tensor.tensor import Tensor
from plait.testing.programs import PROGRAMS, Program


@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_printed_forward_graphs_run(p: Program) -> None:
    compiled = plait.compile(p.fn, backend="aot_eager", dynamic=False)
    compiled(*p.inputs(6))
    graph = compiled.graphs()["forward"]
    scope: dict[str, object] = {"plait": plait}
    exec(compile(str(graph), "<printed graph>", "exec"), scope)
    inputs = [t.detach() for t in p.inputs(6) if isinstance(t, Tensor)][: len(graph.inputs)]
    function = scope["forward"]
    assert callable(function)
    with plait.no_grad():
        printed, meant = function(*inputs), run(graph, inputs)
    assert len(printed) == len(meant)
    for a, b in zip(printed, meant, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_table_names_every_input_and_output() -> None:
    compiled = plait.compile(lambda x, w: (x @ w).relu(), backend="aot_eager")
    compiled(plait.ones(2, 3), plait.ones(3, 4, requires_grad=True))
    table = compiled.graphs()["joint"].print_io().splitlines()
    assert compiled.print_io().splitlines()[: len(table)] == table
    assert table[0].split() == ["name", "type", "descriptor", "meaning"]
    assert "float32[2, 3]" in table[1] and table[1].endswith("x")
    assert "GradAOTOutput" in table[-1] and table[-1].endswith("grad(w)")
