"""Entries of plans: arguments, outputs, sizes, arena, products, failed checks, threads, fork."""

import os
import threading

import numpy as np
import pytest

from plait.backends.llvm.loop import builder as B
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, Store
from plait.backends.llvm.loop.terms import Axis
from plait.backends.llvm.native import emit_gemm as emit_gemm_module
from plait.backends.llvm.native import entry as entry_module
from plait.backends.llvm.native import pool
from plait.backends.llvm.native.entry import build_entry
from plait.backends.llvm.plan import (
    ArenaRef,
    Check,
    Gemm,
    InputRef,
    InputSpec,
    KernelCall,
    Operand,
    OutputRef,
    OutputSpec,
    Plan,
    SymbolSource,
)
from plait.symbolic.expr import const, symbol

ZERO, ONE = const(0), const(1)
NAMES = {"f32": np.float32, "f64": np.float64, "i64": np.int64}


def exprs(sizes):
    return tuple(const(s) if isinstance(s, int) else s for s in sizes)


def contiguous(shape):
    strides, step = [], ONE
    for size in reversed(exprs(shape)):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def tensor_in(name, shape, dtype="f32"):
    return InputSpec(name, dtype, exprs(shape), contiguous(shape))


def tensor_out(name, shape, dtype="f32", strides=None):
    return OutputSpec(name, dtype, exprs(shape), strides or contiguous(shape))


def fail(check):
    raise IndexError(check.message)


def parameters(*roles):
    return tuple(BufferParam("f32", role) for role in roles)


def pointwise(op, n, inputs=2):
    i = Axis("i0", n)
    args = [B.load(k, i.symbol, "f32") for k in range(inputs)]
    value = B.binary(op, *args) if inputs == 2 else B.unary(op, args[0])
    return Kernel(
        "k", parameters(*["in"] * inputs, "out"), (), (i,), (Store(inputs, i.symbol, value, 1),)
    )


def add_plan(n):
    call = KernelCall(
        pointwise("add", const(n)), (InputRef(0, ZERO), InputRef(1, ZERO), OutputRef(0, ZERO)), ()
    )
    return Plan(
        "add",
        (tensor_in("a", (n,)), tensor_in("b", (n,))),
        (tensor_out("y", (n,)),),
        (),
        (call,),
        ZERO,
    )


def row_kernel(rows, columns, sizes=()):
    """x - max(x) along rows, through exp: enough to notice a wrong order of operations."""
    i, j, r = Axis("i0", rows), Axis("i1", columns), Axis("r0", columns)
    top = B.reduce("sum", r, B.unary("exp", B.load(0, i.symbol * columns + r.symbol, "f32")))
    value = B.binary("div", B.load(0, i.symbol * columns + j.symbol, "f32"), top)
    store = Store(1, i.symbol * columns + j.symbol, value, 2)
    return Kernel("rows", parameters("in", "out"), sizes, (i, j), (store,))


def row_plan(rows, columns):
    call = KernelCall(
        row_kernel(const(rows), const(columns)), (InputRef(0, ZERO), OutputRef(0, ZERO)), ()
    )
    shape = (rows, columns)
    return Plan("rows", (tensor_in("x", shape),), (tensor_out("y", shape),), (), (call,), ZERO)


def test_two_inputs_one_output():
    call = build_entry(add_plan(5), fail).call
    a, b = np.arange(5, dtype=np.float32), np.ones(5, np.float32)
    (y,) = call(a, b)
    np.testing.assert_array_equal(y, a + b)
    assert y.flags.owndata and y.dtype == np.float32
    assert type(call).__name__ == "builtin_function_or_method"


def test_wrong_arguments_are_refused():
    call = build_entry(add_plan(5), fail).call
    a = np.ones(5, np.float32)
    with pytest.raises(TypeError, match="takes 2 inputs"):
        call(a)
    with pytest.raises(TypeError, match="'b' must be a NumPy array"):
        call(a, 3.0)


def test_many_calls_leak_nothing():
    import sys

    call = build_entry(add_plan(5), fail).call
    a = np.ones(5, np.float32)
    before = sys.getrefcount(a)
    for _ in range(1000):
        (y,) = call(a, a)
    assert sys.getrefcount(a) == before
    assert sys.getrefcount(y) == 2


def dynamic_plan():
    """y = exp(x * s) for x of any length, s an integer input; through an arena temporary."""
    n, s = symbol("s0", 0), symbol("s1", 0)
    size, number = symbol("n0", 0), symbol("n1", 0)
    i = Axis("i0", size)
    scaled = B.binary("mul", B.load(0, i.symbol, "f32"), B.cast(B.index(number), "f32"))
    first = Kernel(
        "scale", parameters("in", "out"), ("n0", "n1"), (i,), (Store(1, i.symbol, scaled, 1),)
    )
    value = B.unary("exp", B.load(0, i.symbol, "f32"))
    second = Kernel("exp", parameters("in", "out"), ("n0",), (i,), (Store(1, i.symbol, value, 1),))
    steps = (
        KernelCall(first, (InputRef(0, ZERO), ArenaRef(const(64))), (n, s)),
        KernelCall(second, (ArenaRef(const(64)), OutputRef(0, ZERO)), (n,)),
    )
    inputs = (tensor_in("x", (n,)), InputSpec("s", "int", (), ()))
    symbols = (SymbolSource("s0", 0, 0), SymbolSource("s1", 1, None))
    return Plan("dynamic", inputs, (tensor_out("y", (n,)),), symbols, steps, n * 4 + 64)


@pytest.mark.parametrize("n", [0, 1, 7, 1000, 300_000])
def test_sizes_are_read_from_arguments(n):
    call = build_entry(dynamic_plan(), fail).call
    x = np.linspace(-1, 1, n).astype(np.float32)
    (y,) = call(x, 2)
    np.testing.assert_allclose(y, np.exp(x * 2), rtol=1e-6)
    with pytest.raises(TypeError):
        call(x, "two")


def test_views_are_read_where_they_lie():
    call = build_entry(row_plan(3, 8), fail).call
    base = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    (y,) = call(base[4:7])
    x = base[4:7]
    np.testing.assert_allclose(y, x / np.exp(x).sum(1, keepdims=True), rtol=1e-5)


def test_strided_output():
    i, j = Axis("i0", const(3)), Axis("i1", const(5))
    value = B.load(0, i.symbol * 5 + j.symbol, "f32")
    kernel = Kernel(
        "t", parameters("in", "out"), (), (i, j), (Store(1, j.symbol * 3 + i.symbol, value, 2),)
    )
    out = tensor_out("y", (3, 5), strides=(ONE, const(3)))
    call = KernelCall(kernel, (InputRef(0, ZERO), OutputRef(0, ZERO)), ())
    entry = build_entry(Plan("t", (tensor_in("x", (3, 5)),), (out,), (), (call,), ZERO), fail)
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    (y,) = entry(x)
    np.testing.assert_array_equal(y, x)
    assert y.strides == (4, 12) and y.flags.f_contiguous


def test_failed_check_raises_and_leaves_nothing_behind():
    i = Axis("i0", const(4))
    index = B.DynamicIndex(B.load(1, i.symbol, "i64"), const(3), wraps=False, check=1)
    value = B.gather(0, ZERO, [(index, ONE)], "f32")
    buffers = (BufferParam("f32", "in"), BufferParam("i64", "in"), BufferParam("f32", "out"))
    kernel = Kernel("g", buffers, (), (i,), (Store(2, i.symbol, value, 1),))
    copy = pointwise("neg", const(4), 1)
    steps = (
        KernelCall(copy, (InputRef(2, ZERO), ArenaRef(ZERO)), ()),
        KernelCall(
            kernel,
            (InputRef(0, ZERO), InputRef(1, ZERO), OutputRef(0, ZERO)),
            (),
            (Check("other", "not this", ""), Check("gather", "index is out of range", "")),
        ),
    )
    inputs = (tensor_in("x", (3,)), tensor_in("i", (4,), "i64"), tensor_in("z", (4,)))
    entry = build_entry(
        Plan("g", inputs, (tensor_out("y", (4,)),), (), steps, const(1 << 16)), fail
    )
    x, z = np.arange(3, dtype=np.float32), np.ones(4, np.float32)
    for _ in range(3):
        with pytest.raises(IndexError, match="index is out of range"):
            entry(x, np.array([0, 1, 3, 0]), z)
        np.testing.assert_array_equal(entry(x, np.array([0, 1, 2, 0]), z)[0], [0, 1, 2, 0])


# Products ----------------------------------------------------------------------------------------


def gemm_plan(m, n, k, *, batch=(), left=False, right=False, alpha=1.0, dtype="f32"):
    """left, right: whether that operand is stored transposed."""
    shapes = (*batch, *((k, m) if left else (m, k))), (*batch, *((n, k) if right else (k, n)))

    def operand(ref, shape, transposed):
        strides = contiguous(shape)
        row, column = strides[-2:]
        pair = (column, row) if transposed else (row, column)
        return Operand(ref, *pair, strides[:-2])

    out = (*batch, m, n)
    step = Gemm(
        dtype,
        exprs(batch),
        *exprs((m, n, k)),
        operand(InputRef(0, ZERO), shapes[0], left),
        operand(InputRef(1, ZERO), shapes[1], right),
        operand(OutputRef(0, ZERO), out, False),
        alpha,
    )
    inputs = tensor_in("a", shapes[0], dtype), tensor_in("b", shapes[1], dtype)
    plan = Plan("gemm", inputs, (tensor_out("c", out, dtype),), (), (step,), ZERO)
    return plan, shapes


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 5, 7), (1, 9, 4), (9, 1, 4), (4, 6, 1), (1, 1, 1), (2, 3, 0)]
)
def test_products(shape, left, right, dtype):
    plan, shapes = gemm_plan(*shape, left=left, right=right, alpha=0.5, dtype=dtype)
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(NAMES[dtype]) for s in shapes)
    (c,) = build_entry(plan, fail)(a, b)
    expected = 0.5 * ((a.T if left else a) @ (b.T if right else b))
    np.testing.assert_allclose(c, expected, rtol=1e-5)


def test_batched_product():
    plan, shapes = gemm_plan(5, 6, 7, batch=(2, 3))
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(np.float32) for s in shapes)
    np.testing.assert_allclose(build_entry(plan, fail)(a, b)[0], a @ b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(700, 300, 100), (64, 1030, 200)])
def test_large_products_are_split_and_do_not_depend_on_threads(shape, two_threads):
    plan, shapes = gemm_plan(*shape)
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(np.float32) for s in shapes)
    entry = build_entry(plan, fail)
    (several,) = entry(a, b)
    pool.set_num_threads(1)
    (one,) = entry(a, b)
    np.testing.assert_array_equal(one, several)
    np.testing.assert_allclose(one, a @ b, rtol=1e-3, atol=1e-4)


def test_products_without_a_blas(monkeypatch):
    monkeypatch.setattr(entry_module, "find_blas", lambda: None)
    plan, shapes = gemm_plan(50, 60, 70, batch=(2,), right=True)
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(np.float32) for s in shapes)
    (c,) = build_entry(plan, fail)(a, b)
    np.testing.assert_allclose(c, a @ b.transpose(0, 2, 1), rtol=1e-4, atol=1e-4)
    assert emit_gemm_module.SPLIT_WORK > 0


# Threads -----------------------------------------------------------------------------------------


@pytest.fixture
def two_threads():
    before = pool.num_threads()
    pool.set_num_threads(2)
    yield
    pool.set_num_threads(before)


def test_results_do_not_depend_on_threads(two_threads):
    entry = build_entry(row_plan(700, 513), fail)
    x = np.random.default_rng(0).standard_normal((700, 513)).astype(np.float32)
    (several,) = entry(x)
    for count in (1, 3):
        pool.set_num_threads(count)
        (again,) = entry(x)
        np.testing.assert_array_equal(again, several)


def test_many_python_threads_call_one_entry(two_threads):
    entry = build_entry(row_plan(200, 256), fail)
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((200, 256)).astype(np.float32) for _ in range(4)]
    expected = [entry(x)[0] for x in inputs]
    wrong = []

    def work(number):
        for _ in range(50):
            if not np.array_equal(entry(inputs[number])[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_its_own_threads(two_threads):
    entry = build_entry(row_plan(700, 513), fail)
    x = np.random.default_rng(0).standard_normal((700, 513)).astype(np.float32)
    (expected,) = entry(x)
    child = os.fork()
    if child == 0:
        fine = all(np.array_equal(entry(x)[0], expected) for _ in range(20))
        os._exit(0 if fine and pool.num_threads() == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(entry(x)[0], expected)


def test_the_library_keeps_its_own_threads():
    import ctypes

    from plait.backends.llvm.native.blas import find_blas, thread_guards

    blas = find_blas()
    if blas is None or not blas.threads:
        pytest.skip("no OpenBLAS")
    ask = ctypes.CFUNCTYPE(ctypes.c_int)(blas.threads["get"])
    enter, leave = (
        ctypes.CFUNCTYPE(None)(thread_guards()[f"plait_blas_{name}"]) for name in ("enter", "leave")
    )
    before = ask()
    enter()
    enter()
    assert ask() == 1
    leave()
    assert ask() == 1
    leave()
    assert ask() == before


def test_a_bad_thread_count_is_refused():
    with pytest.raises(ValueError, match="expected at least 1"):
        pool.set_num_threads(0)


def test_pool_survives_being_stopped(two_threads):
    entry = build_entry(row_plan(700, 513), fail)
    x = np.random.default_rng(0).standard_normal((700, 513)).astype(np.float32)
    (expected,) = entry(x)
    for count in (1, 2, 1, 4, 2):
        pool.set_num_threads(count)
        np.testing.assert_array_equal(entry(x)[0], expected)


@pytest.mark.parametrize(
    "kind,words", [("llvm", ["define", "plait_kernel"]), ("asm", ["plait_kernel"])]
)
def test_listings_show_kernels_and_driver(kind, words):
    entry = build_entry(row_plan(3, 8), fail)
    text = entry.listing(kind)
    assert all(word in text for word in words)
    with pytest.raises(ValueError, match="expected 'llvm' or 'asm'"):
        entry.listing("english")
