"""The loop IR's organs: terms, builder, printer, verifier, interpreter, transforms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.backends.llvm.loop import builder as b
from plait.backends.llvm.loop.indexing import (
    contiguous,
    dense_order,
    flatten,
    linear_coefficients,
    refine,
    reindex,
    unflatten,
)
from plait.backends.llvm.loop.interpret import CheckFailed, interpret
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, ScatterIndex, Store
from plait.backends.llvm.loop.printer import namespace, print_kernel
from plait.backends.llvm.loop.terms import Axis, GatherDim, make_term, walk
from plait.backends.llvm.loop.transform import canonical, collapse
from plait.backends.llvm.loop.verify import verify_kernel
from plait.base.errors import InternalError
from plait.ops import aten, philox
from plait.symbolic.expr import const, minimum, symbol

F32_IN, F32_OUT = BufferParam("f32", "in"), BufferParam("f32", "out")
AXIS_I, AXIS_J, R = (Axis(name, const(size)) for name, size in (("i", 3), ("j", 4), ("r", 4)))
i, j, r = AXIS_I.symbol, AXIS_J.symbol, R.symbol


def kernel(stores, axes=(AXIS_I, AXIS_J), buffers=(F32_IN, F32_OUT), sizes=()):
    return Kernel("k", tuple(buffers), tuple(sizes), tuple(axes), tuple(stores))


def row_sum():
    total = b.reduce("sum", R, b.load(0, i * 4 + r, "f32"))
    return kernel([Store(1, i, total, 1)], axes=(AXIS_I,))


# ---------------------------------------------------------------- terms and builder


def test_equal_terms_are_one_object():
    x = b.load(0, i * 4 + j, "f32")
    assert x is b.load(0, j + 4 * i, "f32")
    assert b.binary("add", x, x) is b.binary("add", x, x)
    assert b.literal(0.0, "f32") is not b.literal(-0.0, "f32")
    assert b.literal(math.nan, "f32") is b.literal(math.nan, "f32")
    assert b.literal(1, "i64") is not b.literal(True, "i1")


def test_symbols_are_free_ones_only():
    term = b.reduce("sum", R, b.load(0, i * 4 + r, "f32"))
    assert term.symbols == {"i"}


def test_walk_gives_operands_first():
    x = b.load(0, i, "f32")
    y = b.binary("mul", b.unary("exp", x), x)
    assert [t.op for t in walk(y)] == ["load", "exp", "mul"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: b.binary("mul", x, b.literal(1, "f32")), "x"),
        (lambda x: b.binary("mul", x, b.literal(0, "f32")), "mul"),
        (lambda x: b.binary("add", x, b.literal(0, "f32")), "add"),
        (lambda x: b.cast(x, "f32"), "x"),
        (lambda x: b.select(b.literal(True, "i1"), x, x), "x"),
        (lambda x: b.unary("not", b.unary("not", b.binary("lt", x, x))), "lt"),
    ],
)
def test_folding_keeps_ieee_meaning(make, expected):
    x = b.load(0, i, "f32")
    made = make(x)
    assert made is x if expected == "x" else made.op == expected


# ---------------------------------------------------------------- printer


SOFTMAX = """\
def softmax_kernel(b0, b1):  # b0: in f32, b1: out f32
    for i0 in range(2):
        t0 = -inf  # f32
        for r0 in range(5):
            t1 = b0[5*i0 + r0]  # f32
            t0 = fold_max(t0, t1)
        t2 = 0  # f32
        for r0 in range(5):
            t3 = b0[5*i0 + r0]  # f32
            t2 = fold_sum(t2, exp(t3 - t0))
        t4 = recip(t2)  # f32
        for i1 in range(5):
            b1[5*i0 + i1] = exp(b0[5*i0 + i1] - t0) * t4
"""


def test_softmax_prints_as_three_passes_over_a_row(maker, rng):
    x = maker.input(rng.standard_normal((2, 5)).astype(np.float32))
    compiled = maker.compile(maker(aten._softmax.default, x, -1, False))
    (step,) = compiled.programs[0].plan.steps
    assert print_kernel(replace(step.kernel, name="softmax")) == SOFTMAX


def run_printed(made, buffers, sizes=()):
    names = namespace()
    exec(print_kernel(made), names)
    with np.errstate(all="ignore"):
        names[f"{made.name}_kernel"](*buffers, *sizes)


@pytest.mark.parametrize("seed", range(12))
def test_printed_kernels_run_as_the_interpreter_does(maker, seed):
    rng = np.random.default_rng(seed)
    x = maker.input(rng.standard_normal((3, 4)).astype(np.float32))
    y = maker(aten.tanh.default, maker(aten.t.default, x))
    s = maker(aten.sum.dim_IntList, y, [seed % 2], True)
    outs = [maker(aten.div.Tensor, y, s), maker(aten.argmax.default, y, seed % 2)]
    if seed % 3 == 0:
        picked = maker.input(rng.integers(0, 3, 5))
        outs.append(maker(aten.index_select.default, maker(aten.exp.default, x), 0, picked))
    if seed % 4 == 0:
        outs.append(maker(aten.slice_scatter.default, x, maker(aten.neg.default, x), 1, 0, 4))
        outs.append(
            maker(aten.select_scatter.default, x, maker.input(np.ones(4, np.float32)), 0, 1)
        )
    compiled, _ = maker.run(*outs)
    plan = compiled.programs[0].plan
    for step in plan.steps:
        buffers = [
            rng.integers(0, 3, 64)
            if p.dtype == "i64"
            else rng.standard_normal(64).astype(np.float32)
            for p in step.kernel.buffers
        ]
        first, second = [x.copy() for x in buffers], [x.copy() for x in buffers]
        interpret(step.kernel, first, [])
        run_printed(step.kernel, second)
        for got, want in zip(second, first, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)


# ---------------------------------------------------------------- verifier


def test_good_kernel_passes():
    verify_kernel(row_sum())


@pytest.mark.parametrize(
    ("stores", "message"),
    [
        ([Store(1, i, b.load(0, i + r, "f32"), 1)], "mentions ['r']"),
        ([Store(1, j, b.load(0, i, "f32"), 1)], "mentions ['j']"),
        ([Store(0, i, b.load(0, i, "f32"), 1)], "b0 is 'in'"),
        ([Store(1, i, b.load(1, i, "f32"), 1)], "b1 is 'out'"),
        ([Store(1, i, b.load(2, i, "f32"), 1)], "no buffer b2"),
        ([Store(1, i, b.load(0, i, "f64"), 1)], "holds f32"),
        ([Store(1, i, make_term("frob", "f32", (b.load(0, i, "f32"),)), 1)], "unknown operation"),
        ([Store(1, i, b.load(0, i, "f32"), 7)], "depth 7"),
    ],
)
def test_verifier_names_the_fault(stores, message):
    with pytest.raises(InternalError, match=r"verify_kernel: k: ") as failure:
        verify_kernel(kernel(stores))
    assert message in str(failure.value)


def test_builder_refuses_mixed_types():
    with pytest.raises(InternalError):
        b.binary("add", b.literal(1, "f32"), b.load(0, i, "f64"))


# ---------------------------------------------------------------- interpreter


def test_row_sum():
    x, out = np.arange(12, dtype=np.float32), np.zeros(3, np.float32)
    interpret(row_sum(), [x, out], [])
    np.testing.assert_array_equal(out, x.reshape(3, 4).sum(1))


def test_ragged_reduction():
    n = symbol("n", 0)
    chunk = Axis("r", minimum(4, n - i * 4))
    total = b.reduce("max", chunk, b.load(0, i * 4 + chunk.symbol, "f32"))
    made = kernel([Store(1, i, total, 1)], axes=(AXIS_I,), sizes=("n",))
    verify_kernel(made)
    out = np.zeros(3, np.float32)
    x = -np.arange(1, 11, dtype=np.float32)[::-1].copy()
    interpret(made, [x, out], [10])
    np.testing.assert_array_equal(out, [-7, -3, -1])


def test_masked_load_reads_nothing_outside():
    mask = b.binary("lt", b.index(i), b.literal(2, "i64"))
    made = kernel([Store(1, i, b.load(0, i, "f32", mask), 1)], axes=(AXIS_I,))
    out = np.ones(3, np.float32)
    interpret(made, [np.array([5, 6], np.float32), out], [])
    np.testing.assert_array_equal(out, [5, 6, 0])


def gathered(wraps):
    place = b.DynamicIndex(b.load(2, i, "i64"), const(4), wraps=wraps, check=0)
    value = b.gather(0, const(0), [(place, const(1))], "f32")
    buffers = (F32_IN, F32_OUT, BufferParam("i64", "in"))
    return kernel([Store(1, i, value, 1)], axes=(AXIS_I,), buffers=buffers)


def test_gather_checks_and_wraps():
    x, out = np.arange(4, dtype=np.float32), np.zeros(3, np.float32)
    interpret(gathered(True), [x, out, np.array([-1, 0, 3])], [])
    np.testing.assert_array_equal(out, [3, 0, 3])
    for bad in ([4, 0, 0], [-1, 0, 0]):
        with pytest.raises(CheckFailed):
            interpret(gathered(False), [x, out, np.array(bad)], [])


def test_adding_store_meets_itself():
    dim = GatherDim(const(1), const(2), False)
    index = ScatterIndex(b.load(0, i, "i64"), dim)
    buffers = (BufferParam("i64", "in"), BufferParam("f32", "inout"))
    store = Store(1, const(0), b.literal(1.5, "f32"), 1, "add", (index,), 0)
    made = kernel([store], axes=(AXIS_I,), buffers=buffers)
    verify_kernel(made)
    assert made.is_serial
    out = np.zeros(2, np.float32)
    interpret(made, [np.array([1, 0, 1]), out], [])
    np.testing.assert_array_equal(out, [1.5, 3.0])


def test_philox_words_are_those_of_eager():
    long = Axis("i", const(37))
    word = b.philox(b.literal(-5, "i64"), b.literal(9, "i64"), long.symbol)
    made = kernel(
        [Store(0, long.symbol, word, 1)], axes=(long,), buffers=[BufferParam("u32", "out")]
    )
    out = np.zeros(37, np.uint32)
    interpret(made, [out], [])
    np.testing.assert_array_equal(out, philox.words(-5, 9, 37))


# ---------------------------------------------------------------- transforms


def test_contiguous_axes_collapse():
    made = collapse(kernel([Store(1, i * 4 + j, b.load(0, i * 4 + j, "f32"), 2)]))
    assert [str(a.extent) for a in made.axes] == ["12"]
    x, out = np.arange(12, dtype=np.float32), np.zeros(12, np.float32)
    interpret(made, [x, out], [])
    np.testing.assert_array_equal(out, x)


def test_strided_axes_do_not_collapse():
    store = Store(1, i * 4 + j, b.load(0, i + j * 3, "f32"), 2)
    assert len(collapse(kernel([store])).axes) == 2


def test_row_stores_keep_axes_apart():
    x = b.load(0, i * 4 + j, "f32")
    stores = [Store(1, i * 4 + j, x, 2), Store(2, i, b.load(0, i * 4, "f32"), 1)]
    assert len(collapse(kernel(stores, buffers=(F32_IN, F32_OUT, F32_OUT))).axes) == 2


def test_nested_reductions_collapse():
    s = Axis("s", const(5))
    body = b.load(0, i * 20 + r * 5 + s.symbol, "f32")
    total = b.reduce("sum", R, b.reduce("sum", s, body))
    made = collapse(kernel([Store(1, i, total, 1)], axes=(AXIS_I,)))
    (term,) = {t for t in walk(*made.roots()) if t.op == "reduce"}
    assert str(term.attr[1].extent) == "20"


def test_canonical_kernels_forget_names():
    def copied(axis, size):
        n = symbol(size, 2)
        a = Axis(axis, n)
        return kernel([Store(1, a.symbol, b.load(0, a.symbol, "f32"), 1)], axes=(a,), sizes=(size,))

    (first, sizes), (second, others) = canonical(copied("x", "s0")), canonical(copied("y", "s7"))
    assert first == second and sizes == ("s0",) and others == ("s7",)


# ---------------------------------------------------------------- indexing

shapes = st.lists(st.integers(1, 5), min_size=0, max_size=4)


def grid(shape):
    axes = [Axis(f"a{k}", const(n)) for k, n in enumerate(shape)]
    return axes, [tuple(map(int, p)) for p in np.ndindex(*shape)]


@given(shapes, st.randoms())
def test_reindex_keeps_the_position(shape, random):
    count = math.prod(shape)
    target = []
    rest = count
    while rest > 1:
        divisor = random.choice([d for d in range(1, rest + 1) if rest % d == 0])
        target.append(divisor)
        rest //= divisor
        if len(target) > 5:
            target.append(rest)
            break
    source, goal = [const(n) for n in shape], [const(n) for n in target]
    axes, points = grid(shape)
    index = reindex([a.symbol for a in axes], source, goal)
    for point in points:
        values = {a.name: p for a, p in zip(axes, point)}
        position = flatten(index, goal).evaluate(values)
        assert position == (np.ravel_multi_index(point, shape) if shape else 0)
        assert all(0 <= e.evaluate(values) < n for e, n in zip(index, target))


@given(shapes, shapes)
def test_refinement_has_both_as_runs(a, c):
    refined = refine([const(n) for n in a], [const(n) for n in c])
    if math.prod(a) != math.prod(c):
        assert refined is None
        return
    if refined is None:
        return
    sizes = [int(str(n)) for n in refined]
    edges = set(np.cumprod([1, *sizes]))
    assert set(np.cumprod([1, *a])) <= edges and set(np.cumprod([1, *c])) <= edges


def test_symbolic_regrouping_divides_nothing():
    n = symbol("n", 2)
    a, c = Axis("a", n), Axis("c", const(6))
    index = reindex([a.symbol, c.symbol], [n, const(6)], [n, const(2), const(3)])
    assert [str(e) for e in index] == ["a", "c//3", "c%3"]
    back = reindex(list(index), [n, const(2), const(3)], [n * 6])
    assert str(back[0]) == "6*a + c"


def test_linear_coefficients():
    a, c = Axis("a", const(3)).symbol, Axis("c", const(4)).symbol
    assert linear_coefficients(a * 8 + c + 5, (a, c)) == ((const(8), const(1)), const(5))
    assert linear_coefficients(a * c, (a, c)) is None
    assert linear_coefficients(a // 2, (a, c)) is None


def test_memory_order():
    shape = [const(n) for n in (2, 3, 4)]
    assert dense_order(shape, contiguous(shape)) == (0, 1, 2)
    assert dense_order(shape, [const(n) for n in (3, 1, 6)]) == (2, 0, 1)
    assert unflatten(const(17), shape) == (const(1), const(1), const(1))
