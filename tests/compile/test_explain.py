"""``plait.explain``: what it says is what happened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import plait
from plait.base import log
from plait.base.account import Account, stage
from plait.base.config import config
from plait.base.errors import CaptureError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explain.md"
factor = 2.0
table = object()


def loss(x: Any, w: Any) -> Any:
    return ((x @ w).tanh() * factor).sum()


def inputs() -> tuple[Any, Any]:
    return plait.ones(4, 8), plait.ones(8, 3, requires_grad=True)


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    space: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), space)


def test_graphs_guards_and_partition_of_a_training_program() -> None:
    x, w = inputs()
    report = plait.explain(loss)(x, w)
    (entry,) = report.entries
    assert report.name == "loss" and report.backend == "llvm" and report.answering == 0
    assert entry.node_counts["captured"] == 4 and set(entry.graphs) == {
        "captured",
        "joint",
        "forward",
        "backward",
    }
    assert report.graph("backward") is entry.graphs["backward"]
    assert "def joint(x, w, tangent_output):" in str(report.graph("joint"))
    for line in ("x.shape: (4, 8)", "w.requires_grad: True", "factor: 2.0"):
        assert line in entry.guards and f"    {line}" in str(report)
    assert entry.partition is not None
    assert [(v.name, v.bytes) for v in entry.partition.saved if not v.is_input] == [("mm", 48)]
    assert [c.operator for c in entry.partition.recomputed] == ["aten::tanh"]
    assert "saved mm: 48 bytes, a matrix product" in str(report)
    assert f"recomputed tanh = aten::tanh at {__file__}:" in str(report)
    assert not report.recompiles and not entry.fallbacks and not entry.mutated
    assert "fallbacks: none" in str(report) and "recompiles: none" in str(report)


def test_kernels_say_what_was_fused_and_what_was_not() -> None:
    (entry,) = plait.explain(loss)(*inputs()).entries
    product, rest = entry.kernels["forward"]
    assert product.ops == ("gemm",) and {"tanh", "mul", "sum"} <= set(rest.ops)
    assert entry.kernels["backward"]
    text = str(entry)
    assert f"not fused with {product.name}" in text and "in memory: a matrix product" in text


def test_compile_time_is_told_by_stage() -> None:
    with config.override(cache=False):
        (entry,) = plait.explain(lambda x, w: loss(x, w).exp() + 0.125)(*inputs()).entries
    stages = ["capture", "joint trace", "partition", "lowering", "scheduling", "planning"]
    assert set(stages) | {"linking", "guards"} <= set(entry.compile_seconds)
    assert {"lowering", "scheduling", "linking"} <= set(entry.backward_seconds)
    assert all(seconds >= 0 for seconds in entry.compile_seconds.values())
    assert re.search(r"compile time: [\d.]+ ms \(capture [\d.]+, joint trace", str(entry))


def test_nothing_is_run_and_nothing_is_drawn() -> None:
    ran: list[Any] = []

    def writes(x: Any) -> Any:
        ran.append(type(x).__name__)
        return x.mul_(plait.rand(3))

    x = plait.ones(3)
    state = plait.get_rng_state()
    (entry,) = plait.explain(writes)(x).entries
    assert plait.get_rng_state() == state and x.tolist() == [1.0, 1.0, 1.0]
    assert ran == ["TracedTensor"]
    assert entry.random_calls == 1
    assert entry.mutated == ["x: its new value is put into it at once"]
    assert entry.donations == {"x": "holds mutated(x)"}
    assert entry.aliased == ["output is the input x itself"]
    assert "random draws: 1" in str(entry)


def test_aliases_are_told_in_words() -> None:
    def views(x: Any) -> Any:
        y = x * 2.0
        return x[0], y.t(), y[1], y

    (entry,) = plait.explain(views)(plait.ones(2, 2)).entries
    assert entry.aliased[0] == "output[0] is a view of the input x, made again at each call"
    assert len(entry.aliased) == 4 and "returns besides" in entry.aliased[1]


def test_an_unguarded_read_is_listed() -> None:
    def reads(x: Any) -> Any:
        return x + (1.0 if table is not None else 2.0)

    (entry,) = plait.explain(reads)(plait.ones(2)).entries
    assert entry.unguarded == {
        "table": "an object, known by identity: a change inside it is not noticed"
    }
    assert "table: an object, known by identity" in str(entry)


def test_recompiles_have_the_condition_and_both_values() -> None:
    compiled = plait.compile(loss, backend="aot_eager", dynamic=False)
    x, w = inputs()
    compiled(x, w)
    compiled(plait.ones(5, 8), w)
    report = plait.explain(compiled)(plait.ones(6, 8), w)
    assert [e.number for e in report.entries] == [1, 0] and len(compiled.entries) == 2
    (recompile,) = report.recompiles
    assert (recompile.entry, recompile.failure.what) == (0, "x.shape")
    assert (recompile.failure.expected, recompile.failure.got) == ("(4, 8)", "(5, 8)")
    assert report.answering is None and [n for n, _ in report.refusals] == [1, 0]
    assert "entry 1 does not answer this call: x.shape: expected (5, 8), got (6, 8)" in str(report)
    again = plait.explain(compiled)(x, w)
    assert again.answering == 0 and len(again.refusals) == 1
    assert plait.explain(compiled)().refusals == []


def test_conditions_are_told_in_terms_of_the_program() -> None:
    """Of all entries the one that came nearest, without names of ours."""
    compiled = plait.compile(loss, backend="aot_eager", dynamic=False)
    x, w = inputs()
    compiled(x, w)
    with plait.no_grad():
        compiled(x, w)
    compiled(plait.ones(5, 8), w)
    compiled(x, w.detach())
    compiled(x.double(), w.double())
    compiled(plait.ones(8, 4).t(), w)
    failures = [r.failure for r in compiled.recompiles]
    assert [r.entry for r in compiled.recompiles] == [0, 0, 0, 3, 3]
    assert [f.condition for f in failures] == [
        "grad mode is True",
        "x.shape == (4, 8)",
        "w.requires_grad",
        "x.dtype is plait.float32",
        "x.is_contiguous()",
    ]


def test_guards_of_modules_are_a_line_for_each() -> None:
    model = plait.nn.Linear(8, 3)
    (entry,) = plait.explain(lambda x: model(x), backend="aot_eager")(plait.ones(4, 8)).entries
    assert entry.guards[-4:] == [
        "model: the same Linear",
        "model: a Linear, training=True, in_features=8, out_features=3",
        "model.weight: plait.float32 of shape (3, 8), requires grad",
        "model.bias: plait.float32 of shape (3,), requires grad",
    ]


def test_compiles_that_failed_are_told() -> None:
    def picky(x: Any, flag: bool) -> Any:
        if flag:
            raise ValueError("not with this flag")
        return x * 2.0

    compiled = plait.compile(picky, backend="aot_eager")
    report = plait.explain(compiled)(plait.ones(2), True)
    assert not report.entries and "nothing is compiled yet" in str(report)
    compiled(plait.ones(2), False)
    for _ in range(2):
        with pytest.raises(ValueError, match="not with this flag"):
            compiled(plait.ones(2), True)
    report = plait.explain(compiled)()
    assert report.failures == {"ValueError: not with this flag": 2}
    assert "compiles that failed:\n  2 times: ValueError: not with this flag" in str(report)


def test_donations_are_part_of_the_report() -> None:
    def step(p: Any, g: Any) -> Any:
        return p - g * 0.5

    (entry,) = plait.explain(step, donate="p")(plait.ones(64), plait.ones(64)).entries
    assert entry.donations == {"p": "holds output"}
    assert "donated inputs:\n    p: holds output" in str(entry)


def test_budgets_and_symbolic_sizes_are_told_with_the_saved_bytes() -> None:
    x, w = inputs()
    (entry,) = plait.explain(loss, dynamic=True)(x, w).entries
    assert "48 bytes saved for the backward where s0 is 4, s" in str(entry.partition)
    (entry,) = plait.explain(loss, memory_budget=0.5)(x, w).entries
    assert "memory budget 0.5: at most 24 of the 48 bytes that are fastest" in str(entry)
    kept = plait.checkpoint(lambda x, w: (x @ w).tanh(), policy="must_save")
    report = plait.explain(lambda x, w: kept(x, w).exp().sum(), memory_budget=0.0)(x, w)
    partition = report.entries[0].partition
    assert partition is not None and partition.saved_bytes > partition.limit == 0
    assert "the budget cannot be met: nothing more may be computed again" in str(partition)


def test_a_value_is_not_said_to_be_read_where_its_sibling_is() -> None:
    model = plait.nn.Sequential(plait.nn.LayerNorm(8), plait.nn.Linear(8, 4))
    (entry,) = plait.explain(lambda x: model(x).sum())(plait.ones(4, 8)).entries
    assert entry.partition is not None
    why = {v.name: v.why for v in entry.partition.saved if not v.is_input}
    assert why["native_layer_norm"] == "read whole by aten::mm in the backward"
    assert why["native_layer_norm_1"].startswith("native_layer_norm is read whole")


def test_an_uncompiled_backward_is_said_to_be_so() -> None:
    compiled = plait.compile(loss)
    result = compiled(*inputs())
    (entry,) = plait.explain(compiled)().entries
    assert "backward" not in entry.kernels and not entry.backward_seconds
    assert "compile time of the backward: not compiled yet" in str(entry)
    result.backward()
    (entry,) = plait.explain(compiled)().entries
    assert entry.kernels["backward"] and entry.backward_seconds


def test_fallbacks_have_their_reasons() -> None:
    def sorts(x: Any) -> Any:
        return (x * 2.0).cumsum(0) + 1.0

    (entry,) = plait.explain(sorts, backend="llvm")(plait.ones(3, 2)).entries
    expected = [e for e in entry.events if e.kind == "fallback"]
    assert entry.fallbacks == expected
    for event in expected:
        assert event.reason in str(entry)

    def overlapping(x: Any, y: Any) -> Any:
        x.add_(y)
        return x * 1.0

    base = plait.ones(4)
    (entry,) = plait.explain(overlapping)(base[:3], base[1:]).entries
    assert [e.reason for e in entry.fallbacks] == ["written arguments overlap others: x and y"]
    assert entry.runs_eagerly and str(entry).startswith("entry 0 (its calls run eagerly):")
    assert "overlap of written arguments with others: x with y" in str(entry)


def test_a_fallback_is_told_with_the_users_line() -> None:
    @plait.library.custom_op("explaintest::opaque", mutates_args=())
    def opaque(x: plait.Tensor) -> plait.Tensor:
        return x.clone()

    opaque.register_fake(lambda x: plait.empty_like(x))
    (entry,) = plait.explain(lambda x: opaque(x * 2.0) + 1.0)(plait.ones(3)).entries
    (line,) = [part for part in str(entry).splitlines() if "explaintest::opaque has" in part]
    assert f" at {__file__}:" in line and line.endswith(", in the forward")


def test_arguments_that_are_one_tensor_are_named() -> None:
    compiled = plait.compile(lambda x, y: x.add_(1.0) + y, backend="aot_eager")
    a = plait.ones(4)
    compiled(a, a)
    compiled(a, plait.ones(4))
    compiled(a, a[:])
    same, overlap = [r.failure for r in compiled.recompiles]
    assert str(same) == "y: expected the same tensor as x, got another tensor (condition y is x)"
    assert (overlap.expected, overlap.got) == ("none", "x with y")


def test_cache_outcomes_are_counted_with_what_differed(tmp_path: Any) -> None:
    def small(x: Any) -> Any:
        return x * 0.4375 + 3.0

    with config.override(cache=True, cache_dir=str(tmp_path)):
        (entry,) = plait.explain(small)(plait.ones(7)).entries
    assert sum(entry.cache.values()) == len(entry.of_kind("cache")) > 0
    assert entry.cache.get("miss", 0) + entry.cache.get("hit", 0) > 0
    assert "cache: " in str(entry)
    with config.override(cache=False):
        (entry,) = plait.explain(small)(plait.ones(7)).entries
    assert set(entry.cache) <= {"bypass"}


def test_errors_are_those_of_compiling_and_other_backends_are_explained() -> None:
    with pytest.raises(CaptureError, match="cannot be captured"):
        plait.explain(lambda x: x.sum().backward())(plait.ones(2, requires_grad=True))
    (entry,) = plait.explain(loss, backend="eager")(*inputs()).entries
    assert set(entry.graphs) == {"captured"} and entry.partition is None
    (entry,) = plait.explain(loss, backend="aot_eager")(*inputs()).entries
    assert entry.kernels == {"forward": [], "backward": []}


def test_prepare_compiles_without_running() -> None:
    compiled = plait.compile(loss)
    x, w = inputs()
    assert compiled.prepare(x, w) and len(compiled.entries) == 1
    assert compiled.entries[0].segments[0].compiled.backward.is_compiled
    compiled(x, w).backward()
    assert len(compiled.entries) == 1


def test_io_table_tells_what_is_recomputed() -> None:
    compiled = plait.compile(loss)
    compiled(*inputs())
    table = compiled.print_io()
    assert "min_cut: 48 bytes saved for the backward" in table and "recomputed tanh" in table


def test_accounts_nest_without_counting_twice() -> None:
    outer, inner = Account(), Account()
    with outer, stage("whole"):
        with stage("part"):
            log.record("test", "first")
        with inner, stage("part"):
            log.record("test", "second")
    assert set(outer.times) == {"whole", "part"} and set(inner.times) == {"part"}
    assert [e.reason for e in outer.events] == ["first", "second"]
    assert [e.reason for e in inner.events] == ["second"]
    with stage("outside"):
        log.record("test", "third")
    assert "outside" not in outer.times and len(outer.events) == 2


def test_events_of_the_process_are_shown_to_every_function() -> None:
    event = log.record("blas", "a reason made up for this test")
    report = plait.explain(loss, backend="aot_eager")(*inputs())
    assert event in report.events and "a reason made up for this test" in str(report)


@pytest.mark.parametrize("options", [{}, {"memory_budget": 0.5}])
def test_marks_that_change_nothing_are_told(options: dict[str, Any]) -> None:
    w = plait.ones(3, 3)
    block = plait.checkpoint(lambda w, x: (x @ w).sin()) if not options else lambda w, x: x @ w
    step = plait.func.value_and_grad(lambda w, x: block(w, x).sum())
    report = plait.explain(step, backend="aot_eager", **options)(w, plait.ones(2, 3))
    (event,) = report.entries[0].of_kind("partition")
    assert event.reason.startswith("the gradient is taken inside the compiled function")
    assert "checkpoints and memory_budget change nothing" in str(report)
    plain = plait.func.value_and_grad(lambda w, x: (x @ w).sum())
    (entry,) = plait.explain(plain, backend="aot_eager")(w, plait.ones(2, 3)).entries
    assert not entry.of_kind("partition")
