"""What a training program saves and computes again: cut, budgets, tags, contradictions."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

import plait
from plait.aot.joint import JointGraph
from plait.aot.metadata import InputAliasInfo, OutputAliasInfo, OutputType, ViewAndMutationMeta
from plait.aot.mincut import INFINITE
from plait.aot.partition import PartitionReport, default_partition
from plait.aot.recompute import Level
from plait.aot.saving import _Problem, min_cut_partition
from plait.autograd.checkpoint import Recompute, RecomputeTag
from plait.base.config import config
from plait.base.errors import InvalidArgument, PartitionError
from plait.dispatch.operator import Overload
from plait.dispatch.schema import FunctionSchema
from plait.dispatch.tags import Tag
from plait.ir.builder import GraphBuilder
from plait.ir.descriptors import GradAOTOutput, PlainAOTInput, PlainAOTOutput, TangentAOTInput
from plait.ir.passes.cse import share_common_calls
from plait.tensor.layout import TensorMeta
from plait.testing.programs import PROGRAMS, Program, check_program

F = plait.nn.functional
_EFFECTFUL = frozenset({Tag.EFFECTFUL})
NOISY = Overload(FunctionSchema.parse("test::noisy(Tensor x) -> Tensor"), _EFFECTFUL)


def report_of(compiled: Any) -> PartitionReport:
    report: PartitionReport = compiled.entries[0].segments[0].compiled.partition
    return report


def gradients(compiled: Any, inputs: tuple[Any, ...], wanted: list[Any]) -> list[Any]:
    plait.manual_seed(7)
    out = compiled(*inputs)
    return [g.numpy() for g in plait.autograd.grad(out, wanted)]


@pytest.mark.spec("C7")
@pytest.mark.parametrize("budget", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_every_program_is_right_whatever_is_computed_again(
    p: Program, dynamic: bool, budget: float
) -> None:
    compiled = plait.compile(p.fn, backend="aot_eager", memory_budget=budget, dynamic=dynamic)
    with config.override(verify=True):
        check_program(p, compiled, 6)
    check_program(p, compiled, 6)


@pytest.mark.spec("C7")
@pytest.mark.parametrize("budget", [1.0, 0.0])
@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_native_code_is_right_whatever_is_computed_again(p: Program, budget: float) -> None:
    compiled = plait.compile(p.fn, memory_budget=budget, dynamic=False)
    check_program(p, compiled, 6)


@pytest.mark.parametrize("p", PROGRAMS, ids=lambda p: p.name)
def test_min_cut_saves_no_more_than_the_default(p: Program) -> None:
    saved = []
    for partitioner in ("min_cut", "default"):
        compiled = plait.compile(p.fn, backend="aot_eager", partitioner=partitioner, dynamic=False)
        compiled(*p.inputs(6))
        program = compiled.entries[0].segments[0].compiled
        saved.append(program.partition.saved_bytes if program.partition else 0)
    assert saved[0] <= saved[1]


def model_and_inputs() -> tuple[Any, tuple[Any, ...]]:
    plait.manual_seed(0)
    layers: list[Any] = []
    for _ in range(3):
        layers += [plait.nn.Linear(16, 16), plait.nn.LayerNorm(16), plait.nn.GELU()]
        layers += [plait.nn.Dropout(0.2)]
    model = plait.nn.Sequential(*layers, plait.nn.Linear(16, 5))
    x, y = plait.randn(12, 16), plait.tensor(np.arange(12) % 5)
    return model, (x, y)


@pytest.mark.spec("C7")
@pytest.mark.spec("C8")
@pytest.mark.parametrize("backend", ["aot_eager", "llvm"])
def test_saved_bytes_fall_with_the_budget_and_gradients_stay(backend: str) -> None:
    model, inputs = model_and_inputs()
    wanted = list(model.parameters())

    def loss(x: Any, y: Any) -> Any:
        return F.cross_entropy(model(x), y)

    reference = gradients(loss, inputs, wanted)
    saved = []
    for budget in (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0):
        compiled = plait.compile(loss, backend=backend, memory_budget=budget)
        found = gradients(compiled, inputs, wanted)
        saved.append(report_of(compiled).saved_bytes)
        assert saved[-1] <= budget * saved[0]
        for g, h in zip(reference, found, strict=True):
            np.testing.assert_allclose(h, g, rtol=2e-4, atol=1e-6)
    assert saved == sorted(saved, reverse=True)
    assert saved[0] > saved[3] > saved[-1] == 0


def test_draws_made_again_are_the_same_draws() -> None:
    def f(x: Any) -> Any:
        return (F.dropout(x, 0.5, True) * x).sum()

    x = plait.ones(64, 64, requires_grad=True)
    expected = gradients(f, (x,), [x])
    for dynamic in (False, True):
        compiled = plait.compile(f, memory_budget=0.0, dynamic=dynamic)
        np.testing.assert_array_equal(gradients(compiled, (x,), [x])[0], expected[0])
        assert report_of(compiled).saved_bytes == 0
        assert "native_dropout_explicit" in str(report_of(compiled))


def test_pointwise_work_is_computed_again_and_products_are_not() -> None:
    w = plait.randn(8, 8, requires_grad=True)

    def f(x: Any) -> Any:
        return ((x @ w).sin().exp().tanh() * 2.0).sum()

    compiled = plait.compile(f, backend="aot_eager")
    compiled(plait.randn(4, 8))
    report = report_of(compiled)
    assert [(v.name, v.bytes, v.why) for v in report.saved if not v.is_input] == [
        ("mm", 4 * 8 * 4, "a matrix product")
    ]
    assert {c.operator for c in report.recomputed} == {"aten::sin", "aten::exp", "aten::tanh"}
    assert all(c.source is not None and c.source[0] == __file__ for c in report.recomputed)


def test_what_a_product_reads_in_the_backward_is_saved() -> None:
    v = plait.randn(8, 8, requires_grad=True)

    def f(x: Any) -> Any:
        return ((x * 2.0).sin() @ v).sum()

    compiled = plait.compile(f, backend="aot_eager")
    compiled(plait.randn(4, 8))
    (saved,) = [s for s in report_of(compiled).saved if not s.is_input]
    assert saved.name == "sin" and saved.why == "read whole by aten::mm in the backward"


def test_an_overwritten_input_is_not_what_is_saved() -> None:
    def f(x: Any, w: Any) -> Any:
        loss = (x.sin() * w).sum()
        x.add_(1.0)
        return loss

    compiled = plait.compile(f, memory_budget=0.0)
    found = []
    for g in (f, compiled):
        x, w = plait.ones(3, 4) * 0.5, plait.ones(4, requires_grad=True)
        g(x, w).backward()
        found.append((x.numpy(), w.grad.numpy()))
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-6)
    assert [v.name for v in report_of(compiled).saved] == ["sin"]


def test_a_returned_tensor_may_be_written_where_eager_allows_it() -> None:
    w = plait.randn(4, 4, requires_grad=True)

    def f(x: Any) -> Any:
        hidden = x @ w
        return hidden, hidden.exp().sum()

    found = []
    for g in (f, plait.compile(f, backend="aot_eager")):
        hidden, loss = g(plait.ones(2, 4))
        hidden.zero_()
        found.append(plait.autograd.grad(loss, [w])[0].numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_equal_calls_become_one_unless_both_are_returned() -> None:
    def f(x: Any) -> Any:
        a, b = x.sin() * 2.0, x.sin() * 2.0
        return a, b, x.sin().cos(), x.sin().cos() + 0.0, x * 0.0, x * -0.0

    compiled = plait.compile(f, backend="aot_eager")
    compiled(plait.ones(3))
    graph = share_common_calls(compiled.graphs()["forward"])
    names = [n.op.name for n in graph.nodes]
    assert names.count("sin") == 1
    assert names.count("cos") == 2 - 1
    assert names.count("mul") == 4  # two returned twice, and two zeros of different sign


# --- what users mark ------------------------------------------------------------------------------


def chain(x: Any) -> Any:
    return x.sin().exp().tanh()


@pytest.mark.parametrize(
    ("policy", "recomputed"),
    [
        ("must_save", set()),
        ("must_recompute", {"aten::sin", "aten::exp", "aten::tanh"}),
        ("prefer_recompute", {"aten::sin", "aten::exp"}),
        (lambda op: "must_save" if op.name == "exp" else None, set()),
    ],
)
def test_policies_steer_what_is_computed_again(policy: Any, recomputed: set[str]) -> None:
    block = plait.checkpoint(chain, policy=policy)

    def f(x: Any) -> Any:
        return (block(x) * 3.0).cos().sum()

    x = plait.randn(5, 4, requires_grad=True)
    compiled = plait.compile(f)
    found = gradients(compiled, (x,), [x])
    np.testing.assert_allclose(found[0], gradients(f, (x,), [x])[0], rtol=1e-5, atol=1e-6)
    operators = {c.operator for c in report_of(compiled).recomputed} - {"aten::mul.Scalar"}
    assert operators - {"aten::cos"} == recomputed


def test_a_row_of_checkpointed_blocks_saves_what_goes_between_them() -> None:
    ws = [plait.randn(16, 16, requires_grad=True) for _ in range(4)]

    def block(x: Any, w: Any) -> Any:
        return plait.gelu(x @ w) @ w

    def f(x: Any, wrap: Any) -> Any:
        for w in ws:
            x = wrap(block)(x, w)
        return x.sum()

    inputs = plait.randn(8, 16)
    compiled = plait.compile(lambda x: f(x, plait.checkpoint))
    plain = plait.compile(lambda x: f(x, lambda fn: fn))
    a, b = gradients(compiled, (inputs,), ws), gradients(plain, (inputs,), ws)
    for g, h in zip(a, b, strict=True):
        np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-5)
    between = 3 * 8 * 16 * 4
    assert report_of(compiled).saved_bytes == between
    assert report_of(plain).saved_bytes > 2 * between
    assert sum(c.operator == "aten::mm" for c in report_of(compiled).recomputed) == 4


def test_contradicting_marks_are_an_error_with_the_users_lines() -> None:
    meta = TensorMeta((4,), plait.float32)
    builder = GraphBuilder("joint")
    x = builder.input(meta, PlainAOTInput(0, "x"), requires_grad=True)
    tangent = builder.input(meta, TangentAOTInput(PlainAOTOutput(0)))
    must = RecomputeTag(Recompute.MUST_RECOMPUTE, 1)
    lines = [(("model.py", number, "block"),) for number in (12, 13)]
    made = builder.call(NOISY, (x,), {}, [meta], tag=must, source=lines[0])
    sin = plait.ops.aten.sin.default
    out = builder.call(sin, (made.result,), {}, [meta], tag=must, source=lines[1])
    mul = plait.ops.aten.mul.Tensor
    grad = builder.call(mul, (tangent, out.result), {}, [meta], origin="backward")
    builder.output(out.result, PlainAOTOutput(0))
    builder.output(grad.result, GradAOTOutput(PlainAOTInput(0, "x")))
    infos = [InputAliasInfo(is_leaf=True, requires_grad=True)]
    returns = [OutputAliasInfo(OutputType.NON_ALIAS, graph_idx=0)]
    joint = JointGraph(builder.graph, ViewAndMutationMeta(infos, returns), [0])
    with pytest.raises(PartitionError) as caught:
        min_cut_partition(joint)
    assert str(caught.value).splitlines()[1:] == [
        "  noisy = test::noisy at model.py:12: it has an effect, marked must_recompute",
        "  sin = aten::sin at model.py:13: marked must_recompute",
    ]


def test_a_users_contradiction_is_told_by_the_path_with_their_lines() -> None:
    @plait.library.custom_op("savingtest::shout", mutates_args=())
    def shout(x: plait.Tensor) -> plait.Tensor:
        return x.clone()

    shout.register_fake(lambda x: plait.empty_like(x))
    shout.register_autograd(lambda ctx, g: g)
    shout.register_effect("ordered")
    block = plait.checkpoint(lambda x: shout(x).sin().exp(), policy="must_recompute")
    with pytest.raises(PartitionError) as caught:
        plait.explain(lambda x: block(x).cos().sum())(plait.ones(4, requires_grad=True))
    first, *path = str(caught.value).splitlines()
    assert "Give one of these calls another policy" in first
    assert [line.split()[0] for line in path] == ["shout", "sin", "exp"]
    assert all(f"at {__file__}:" in line and "marked must_recompute" in line for line in path)
    assert "it has an effect" in path[0]


# --- choosing a partitioner -----------------------------------------------------------------------


def test_partitioners_are_chosen_by_name_or_given() -> None:
    seen = []

    def mine(joint: Any) -> Any:
        seen.append(joint)
        return default_partition(joint)

    x = plait.ones(3, requires_grad=True)
    compiled = plait.compile(chain, backend="aot_eager", partitioner=mine)
    compiled(x)
    assert len(seen) == 1 and report_of(compiled).partitioner == "default"
    compiled = plait.compile(chain, backend="aot_eager")
    compiled(x)
    assert report_of(compiled).partitioner == "min_cut"


@pytest.mark.parametrize(
    "arguments",
    [
        {"partitioner": "quick"},
        {"memory_budget": 1.5},
        {"partitioner": "default", "memory_budget": 0.5},
    ],
)
def test_wrong_choices_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="compile: argument '(partitioner|memory_budget)'"):
        plait.compile(chain, **arguments)


# --- the cut against all cuts ---------------------------------------------------------------------


def random_joint(seed: int) -> JointGraph:
    """A joint graph of a few pointwise calls and sums, some of which the backward reads."""
    rng = random.Random(seed)
    aten = plait.ops.aten
    builder = GraphBuilder("joint")
    values = [
        builder.input(TensorMeta((16, rng.choice([2, 8])), plait.float32), PlainAOTInput(0, "x"))
    ]
    for _ in range(rng.randint(3, 8)):
        x = rng.choice(values)
        same = [v for v in values if v.type.shape == x.type.shape]
        make = rng.randrange(5)
        if make == 0:
            node = builder.infer(aten.add.Tensor, x, rng.choice(same), alpha=1)
        elif make == 1 and len(x.type.shape) == 2:
            node = builder.infer(aten.sum.dim_IntList, x, (1,), False, dtype=None)
        else:
            node = builder.infer(rng.choice([aten.sin, aten.neg, aten.exp]).default, x)
        values.append(node.result)
    return as_joint(rng, builder, values)


def as_joint(rng: random.Random, builder: GraphBuilder, values: list[Any]) -> JointGraph:
    """The last value is returned; the backward reads some of the others, one as a whole."""
    aten = plait.ops.aten
    last = values[-1]
    builder.output(last, PlainAOTOutput(0))
    tangent = builder.input(last.type, TangentAOTInput(PlainAOTOutput(0)))
    for v in values[1:]:
        if rng.random() < 0.5 and v.type.shape == last.type.shape:
            whole = v.type.shape == (16, 16) and rng.random() < 0.3
            grad = builder.infer(aten.mm.default if whole else aten.mul.Tensor, tangent, v)
            builder.output(grad.result, GradAOTOutput(PlainAOTInput(0, "x")))
    builder.graph.inputs[0].requires_grad = True
    infos = [InputAliasInfo(is_leaf=True, requires_grad=True)]
    returns = [OutputAliasInfo(OutputType.NON_ALIAS, graph_idx=0)]
    return JointGraph(builder.graph, ViewAndMutationMeta(infos, returns), [0])


def marked_joint(seed: int) -> JointGraph:
    """Products, transpositions, norms of several results and pointwise calls, some marked."""
    rng = random.Random(seed)
    aten = plait.ops.aten
    builder = GraphBuilder("joint")
    values = [builder.input(TensorMeta((16, 16), plait.float32), PlainAOTInput(0, "x"))]
    for _ in range(rng.randint(3, 7)):
        x = rng.choice(values)
        make = rng.randrange(5)
        if make == 0:
            node = builder.infer(aten.mm.default, x, rng.choice(values))
        elif make == 1:
            node = builder.infer(aten.t.default, x)
        elif make == 2:
            node = builder.infer(aten.native_layer_norm.default, x, (16,), None, None, 1e-5)
        else:
            node = builder.infer(rng.choice([aten.sin, aten.neg, aten.exp]).default, x)
        mark = rng.choice([None, None, None, *Recompute])
        node.tag = None if mark is None else RecomputeTag(mark, 1)
        if rng.random() < 0.1:
            made = builder.call(NOISY, (x,), {}, [x.type], tag=node.tag)
            values.append(made.result)
        values.append(node.results[0])
    return as_joint(rng, builder, values)


def cheapest(problem: _Problem, level: Level) -> float:
    """What the best of all sets of values costs; infinite where there is none."""
    banned = problem.bans(level)
    wanted = [v for v in problem.read_in_backward if v not in problem.reached]

    def cost(kept: set[Any]) -> float:
        calls, read = problem._chain(wanted, kept)
        if any(node in banned for node in calls):
            return float("inf")
        saving = sum(problem.capacity(v) for v in read)
        return saving + sum(problem.again(node, level) for node in calls)

    made = [v for node in problem.before for v in node.results]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(made, count) for count in range(len(made) + 1)
    )
    return min(cost(set(kept)) for kept in subsets)


def cost_of(problem: _Problem, level: Level, kept: set[Any]) -> float:
    wanted = [v for v in problem.read_in_backward if v not in problem.reached]
    calls, read = problem._chain(wanted, kept)
    assert not any(node in problem.bans(level) for node in calls)
    saving = sum(problem.capacity(v) for v in read)
    return saving + sum(problem.again(node, level) for node in calls)


@pytest.mark.spec("C7")
@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.name.lower())
@pytest.mark.parametrize("seed", range(40))
def test_no_set_of_values_is_cheaper_to_save_than_the_cut(seed: int, level: Level) -> None:
    problem = _Problem(random_joint(seed))
    assert cost_of(problem, level, problem.cut(level)) == cheapest(problem, level)


@pytest.mark.parametrize("level", list(Level), ids=lambda level: level.name.lower())
@pytest.mark.parametrize("seed", range(60))
def test_marks_are_kept_at_the_least_cost_or_contradict_each_other(seed: int, level: Level) -> None:
    problem = _Problem(marked_joint(seed))
    best = cheapest(problem, level)
    if best >= INFINITE:
        with pytest.raises(PartitionError, match="contradict each other"):
            problem.cut(level)
        return
    kept = problem.cut(level)
    assert cost_of(problem, level, kept) == best
    marks = {v: v.producer.tag.policy for v in kept if v.producer and v.producer.tag}
    assert Recompute.MUST_RECOMPUTE not in marks.values()


def test_some_marks_contradict_each_other_and_some_do_not() -> None:
    """The test above sees both."""
    outcomes = {cheapest(_Problem(marked_joint(seed)), Level.FAST) < INFINITE for seed in range(60)}
    assert outcomes == {True, False}


@pytest.mark.parametrize("seed", range(20))
def test_budgets_are_kept_on_random_graphs(seed: int) -> None:
    """Saved bytes fall with the budget, and stay below it where they can."""
    least = min_cut_partition(random_joint(seed), 0.0).report
    last = None
    for budget in (1.0, 0.75, 0.5, 0.25, 0.0):
        report = min_cut_partition(random_joint(seed), budget).report
        assert report is not None and least is not None
        assert last is None or report.saved_bytes <= last
        last = report.saved_bytes
        assert report.limit is None or last <= max(report.limit, least.saved_bytes)
