"""Emitted kernels against the loop interpreter: operations, tails, strides, masks, reductions."""

import itertools

import numpy as np
import pytest

from plait.backends.llvm.loop import builder as B
from plait.backends.llvm.loop.interpret import NUMPY_DTYPES, CheckFailed, interpret
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, ScatterIndex, Store
from plait.backends.llvm.loop.reference import BINARY, UNARY
from plait.backends.llvm.loop.terms import Axis, GatherDim, make_term
from plait.backends.llvm.native.kernels import compile_kernels, run_kernel
from plait.symbolic.expr import const, minimum, symbol

ZERO = const(0)
TAILS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 31, 32, 33, 100]
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 0.5, -2.5, 1e-40, 3e38, 7.0]


def axis(name, extent):
    return Axis(name, const(extent) if isinstance(extent, int) else extent)


def make(buffers, axes, stores, sizes=()):
    """A kernel from dtype strings such as "f32" (in) and "f32>" (out)."""
    parameters = tuple(
        BufferParam(
            b.rstrip(">+"), "out" if b.endswith(">") else "inout" if b.endswith("+") else "in"
        )
        for b in buffers
    )
    return Kernel("test", parameters, tuple(sizes), tuple(axes), tuple(stores))


def values(dtype, count, seed=0):
    """Random values with special ones among the floats."""
    random = np.random.default_rng(seed)
    kind = NUMPY_DTYPES[dtype]
    if dtype == "i1":
        return random.random(count) < 0.5
    if kind.kind in "iu":
        low = 0 if kind.kind == "u" else -100
        return random.integers(low, 100, count).astype(kind)
    found = random.standard_normal(count).astype(kind) * 3
    places = random.integers(0, max(count, 1), count // 3)
    found[places] = np.resize(SPECIAL, places.size).astype(kind)
    return found


def both(kernel, buffers, sizes=()):
    """(native, interpreted) buffers after a run, and the native status."""
    native = [b.copy() for b in buffers]
    expected = [b.copy() for b in buffers]
    status = run_kernel(kernel, native, sizes)
    interpret(kernel, expected, sizes)
    return native, expected, status


def same(native, expected, rtol=0.0, atol=0.0):
    for left, right in zip(native, expected):
        if left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(left, right)


def flat(count, value, dtype, inputs):
    i = axis("i0", count)
    buffers = [*inputs, dtype + ">"]
    return make(buffers, [i], [Store(len(inputs), i.symbol, value, 1)])


def at(buffer, i, dtype):
    return B.load(buffer, i.symbol, dtype)


EXACT = {
    "neg", "abs", "floor", "ceil", "trunc", "round", "not", "isnan", "isinf", "sqrt", "strict_sqrt",
    "recip",
}  # fmt: skip


DTYPES = ["f32", "f64", "i32", "i64", "u8"]
ON_ALL = {"neg", "abs", "sign"}
UNARY_CASES = [
    (op, dtype)
    for op in sorted(UNARY)
    for dtype in DTYPES
    if op in ON_ALL or (dtype[0] == "f") != (op == "not")
]


@pytest.mark.parametrize("op,dtype", UNARY_CASES)
def test_unary(op, dtype):
    n = 37
    i = axis("i0", n)
    out = "i1" if op in ("isnan", "isinf") else dtype
    x = values(dtype, n)
    if op == "sign" and dtype[0] == "f":
        x = x[~np.isnan(x)].repeat(3)[:n]
    kernel = flat(n, make_term(op, out, (at(0, i, dtype),)), out, [dtype])
    native, expected, _ = both(kernel, [x, np.zeros(n, NUMPY_DTYPES[out])])
    rtol = 0 if op in EXACT else 1e-6 if dtype == "f32" else 2e-15
    same(native, expected, rtol, 1e-45 if dtype == "f32" else 1e-323)


def test_sign_of_nan_is_zero():
    i = axis("i0", 3)
    kernel = flat(3, make_term("sign", "f32", (at(0, i, "f32"),)), "f32", ["f32"])
    out = np.ones(3, np.float32)
    run_kernel(kernel, [np.array([np.nan, -3, 4], np.float32), out])
    assert out.tolist() == [0, -1, 1]


INTEGER_ONLY = {"and", "or", "xor", "shl", "shr"}
FLOAT_BINARY = {"atan2", "copysign", "strict_add", "strict_sub", "strict_mul", "strict_div", "div"}


BINARY_CASES = [
    (op, dtype)
    for op in sorted(BINARY)
    for dtype in DTYPES
    if op not in (INTEGER_ONLY if dtype[0] == "f" else FLOAT_BINARY)
]


@pytest.mark.parametrize("op,dtype", BINARY_CASES)
def test_binary(op, dtype):
    is_float = dtype[0] == "f"
    pairs = 61
    i = axis("i0", pairs)
    x, y = values(dtype, pairs, 1), values(dtype, pairs, 2)
    if op in ("shl", "shr", "pow") and not is_float:
        y = np.abs(y) % 7
    if not is_float and op in ("floordiv", "mod", "fmod", "truncdiv"):
        y[y == 0] = 3
    out = "i1" if op in ("eq", "ne", "lt", "le", "gt", "ge") else dtype
    term = make_term(op, out, (at(0, i, dtype), at(1, i, dtype)))
    kernel = flat(pairs, term, out, [dtype, dtype])
    native, expected, _ = both(kernel, [x, y, np.zeros(pairs, NUMPY_DTYPES[out])])
    rough = op in ("pow", "atan2")
    same(native, expected, (1e-6 if dtype == "f32" else 1e-14) if rough else 0)


@pytest.mark.parametrize("source", sorted(NUMPY_DTYPES))
@pytest.mark.parametrize("target", sorted(NUMPY_DTYPES))
def test_casts(source, target):
    n = 21
    i = axis("i0", n)
    x = values(source, n)
    if NUMPY_DTYPES[source].kind not in "iub":
        x = np.nan_to_num(x.astype(np.float32), posinf=3, neginf=-3)
        x = np.clip(x, 0 if target[0] == "u" else -60, 60).astype(NUMPY_DTYPES[source])
    elif target[0] == "u" and x.dtype.kind == "i":
        x = np.abs(x)
    kernel = flat(n, make_term("cast", target, (at(0, i, source),)), target, [source])
    native, expected, _ = both(kernel, [x, np.zeros(n, NUMPY_DTYPES[target])])
    np.testing.assert_array_equal(native[1], expected[1])


@pytest.mark.parametrize("n", TAILS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_tail(n, dynamic):
    i = Axis("i0", symbol("n0", 0) if dynamic else const(n))
    value = B.binary("add", B.unary("exp", at(0, i, "f32")), at(1, i, "f32"))
    kernel = make(["f32", "f32", "f32>"], [i], [Store(2, i.symbol, value, 1)], ["n0"] * dynamic)
    x, y = values("f32", n + 8), values("f32", n + 8, 1)
    out = np.full(n + 8, 7, np.float32)
    native, expected, _ = both(kernel, [x, y, out], (n,) if dynamic else ())
    same(native, expected, 1e-6, 1e-45)
    assert (native[2][n:] == 7).all()


@pytest.mark.parametrize("stride", [0, 1, 2, -1, 5])
def test_strided_loads_and_stores(stride):
    n = 21
    i = axis("i0", n)
    base = 20 if stride < 0 else 0
    value = B.load(0, i.symbol * stride + base, "f32")
    kernel = make(["f32", "f32>"], [i], [Store(1, i.symbol * 3, value, 1)])
    native, expected, _ = both(kernel, [values("f32", 120), np.zeros(70, np.float32)])
    same(native, expected)


@pytest.mark.parametrize("rows,columns", [(3, 5), (7, 32), (2, 33), (1, 1), (5, 0)])
def test_transposition_and_broadcast(rows, columns):
    i, j = axis("i0", rows), axis("i1", columns)
    value = B.binary(
        "add", B.load(0, j.symbol * rows + i.symbol, "f32"), B.load(1, i.symbol, "f32")
    )
    value = B.binary("add", value, B.load(2, j.symbol, "f32"))
    kernel = make(
        ["f32", "f32", "f32", "f32>"], [i, j], [Store(3, i.symbol * columns + j.symbol, value, 2)]
    )
    buffers = [values("f32", rows * columns + 1), values("f32", rows), values("f32", columns + 1)]
    native, expected, _ = both(kernel, [*buffers, np.zeros(rows * columns, np.float32)])
    same(native, expected)


def test_division_in_offsets():
    i = axis("i0", 60)
    value = B.load(0, (i.symbol // 5) * 7 + i.symbol % 5, "f32")
    index = B.cast(B.index(i.symbol % 7), "f32")
    kernel = flat(60, B.binary("add", value, index), "f32", ["f32"])
    native, expected, _ = both(kernel, [values("f32", 100), np.zeros(60, np.float32)])
    same(native, expected)


def test_masked_load_does_not_read():
    i = axis("i0", 20)
    inside = B.binary("lt", B.index(i.symbol), B.literal(9, "i64"))
    value = B.load(0, i.symbol, "f32", inside)
    kernel = flat(20, value, "f32", ["f32"])
    native, expected, _ = both(kernel, [values("f32", 20), np.zeros(20, np.float32)])
    same(native, expected)


def test_mixed_widths_and_select():
    i = axis("i0", 43)
    wide = B.cast(at(0, i, "f32"), "f64")
    long = B.cast(at(1, i, "i32"), "i64")
    chosen = B.select(at(2, i, "i1"), B.binary("mul", wide, B.cast(long, "f64")), wide)
    kernel = make(
        ["f32", "i32", "i1", "f64>", "i1>"],
        [i],
        [
            Store(3, i.symbol, chosen, 1),
            Store(4, i.symbol, B.binary("or", at(2, i, "i1"), B.binary("gt", wide, wide)), 1),
        ],
    )
    buffers = [values("f32", 43), values("i32", 43), values("i1", 43)]
    native, expected, _ = both(kernel, [*buffers, np.zeros(43), np.zeros(43, np.bool_)])
    same(native, expected)


# Gathers and scatters ----------------------------------------------------------------------------


def gather_kernel(n, size, dtype="f32", wraps=True):
    i = axis("i0", n)
    index = B.DynamicIndex(at(1, i, "i64"), const(size), wraps=wraps, check=0)
    value = B.gather(0, ZERO, [(index, const(1))], dtype)
    return flat(n, value, dtype, [dtype, "i64"])


@pytest.mark.parametrize("dtype", ["f32", "f64", "i64", "i1"])
@pytest.mark.parametrize("n", [1, 7, 19, 40])
def test_gather(n, dtype):
    x = values(dtype, 11)
    index = np.random.default_rng(0).integers(-11, 11, n)
    native, expected, status = both(
        gather_kernel(n, 11, dtype), [x, index, np.zeros(n, NUMPY_DTYPES[dtype])]
    )
    assert status == 0
    same(native, expected)


@pytest.mark.parametrize("bad", [11, -12, 2**40])
@pytest.mark.parametrize("place", [0, 5, 18])
def test_gather_outside_its_buffer_sets_the_status(bad, place):
    index = np.zeros(19, np.int64)
    index[place] = bad
    out = np.zeros(19, np.float32)
    assert run_kernel(gather_kernel(19, 11), [values("f32", 11), index, out]) == 1
    with pytest.raises(CheckFailed):
        interpret(gather_kernel(19, 11), [values("f32", 11), index, out], ())


def test_rows_found_by_index():
    i, j = axis("i0", 9), axis("i1", 21)
    index = B.DynamicIndex(B.load(1, i.symbol, "i64"), const(6), wraps=False, check=0)
    value = B.gather(0, j.symbol, [(index, const(21))], "f32")
    kernel = make(["f32", "i64", "f32>"], [i, j], [Store(2, i.symbol * 21 + j.symbol, value, 2)])
    index_values = np.random.default_rng(1).integers(0, 6, 9)
    native, expected, _ = both(
        kernel, [values("f32", 126), index_values, np.zeros(189, np.float32)]
    )
    same(native, expected)


@pytest.mark.parametrize("kind", ["set", "add"])
@pytest.mark.parametrize("by_row", [False, True])
def test_scatter(kind, by_row):
    i, j = axis("i0", 9), axis("i1", 21)
    where = B.load(1, i.symbol if by_row else i.symbol * 21 + j.symbol, "i64")
    index = ScatterIndex(
        where, GatherDim(const(21) if by_row else const(1), const(6 if by_row else 126), False)
    )
    offset = j.symbol if by_row else ZERO
    value = B.load(0, i.symbol * 21 + j.symbol, "f32")
    store = Store(2, offset, value, 2, kind, (index,), 0)
    kernel = make(["f32", "i64", "f32+"], [i, j], [store])
    random = np.random.default_rng(1)
    index_values = random.integers(0, 6, 9) if by_row else random.permutation(189) % 126
    if kind == "set" and not by_row:
        index_values = np.arange(189) % 126
    x = random.standard_normal(189).astype(np.float32)
    native, expected, status = both(kernel, [x, index_values, np.ones(126, np.float32)])
    assert status == 0
    same(native, expected, 1e-6)


def test_scatter_outside_sets_the_status_and_writes_nothing():
    i = axis("i0", 3)
    index = ScatterIndex(B.load(1, i.symbol, "i64"), GatherDim(const(1), const(4), False))
    kernel = make(
        ["f32", "i64", "f32+"], [i], [Store(2, ZERO, at(0, i, "f32"), 1, "add", (index,), 2)]
    )
    out = np.zeros(8, np.float32)
    status = run_kernel(kernel, [np.ones(3, np.float32), np.array([1, 6, 1]), out])
    assert status == 3
    assert out.tolist() == [0, 2, 0, 0, 0, 0, 0, 0]


# Reductions --------------------------------------------------------------------------------------

KINDS = ["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"]


def reduce_kernel(kind, dtype, rows, columns, *, down=False):
    """Reduce along rows, or down the columns."""
    i, r = axis("i0", columns if down else rows), axis("r0", rows if down else columns)
    offset = r.symbol * columns + i.symbol if down else i.symbol * columns + r.symbol
    body = B.load(0, offset, "i1" if kind in ("any", "all") else dtype)
    value = make_term(
        "reduce",
        "i64" if kind.startswith("arg") else body.dtype,
        (body,),
        (kind, r),
    )
    return make([body.dtype, value.dtype + ">"], [i], [Store(1, i.symbol, value, 1)])


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i64", "i32", "u8"])
@pytest.mark.parametrize("kind", KINDS)
def test_reductions(kind, dtype, down):
    for rows, columns in [(3, 1), (2, 7), (5, 33), (4, 64), (37, 40)]:
        kernel = reduce_kernel(kind, dtype, rows, columns, down=down)
        data = values(kernel.buffers[0].dtype, rows * columns)
        if dtype[0] == "f" and kind in ("sum", "prod"):
            data = np.nan_to_num(data, posinf=2, neginf=-2, nan=1) % 2 + 0.5
        out = np.zeros(columns if down else rows, NUMPY_DTYPES[kernel.buffers[1].dtype])
        native, expected, _ = both(
            kernel, [data.astype(NUMPY_DTYPES[kernel.buffers[0].dtype]), out]
        )
        same(native, expected, 2e-5 if dtype == "f32" else 1e-12)


@pytest.mark.parametrize("place", [0, 3, 17, 39])
@pytest.mark.parametrize("kind", ["max", "min", "sum", "argmax", "argmin"])
def test_nan_wins(kind, place):
    data = np.random.default_rng(0).standard_normal(2 * 40).astype(np.float32)
    data[place] = np.nan
    kernel = reduce_kernel(kind, "f32", 2, 40)
    native, expected, _ = both(kernel, [data, np.zeros(2, NUMPY_DTYPES[kernel.buffers[1].dtype])])
    same(native, expected, 1e-5)


def test_all_equal_values_give_the_first_place():
    for value in (-np.inf, 3.0, np.nan):
        kernel = reduce_kernel("argmax", "f32", 2, 40)
        out = np.full(2, 9)
        run_kernel(kernel, [np.full(80, value, np.float32), out])
        assert out.tolist() == [0, 0]


def test_full_reduction_and_nested_axes():
    r, s = axis("r0", 5), axis("r1", 19)
    inner = B.reduce("sum", s, B.load(0, r.symbol * 19 + s.symbol, "f32"))
    kernel = make(["f32", "f32>"], [], [Store(1, ZERO, B.reduce("max", r, inner), 0)])
    data = np.random.default_rng(0).standard_normal(95).astype(np.float32)
    native, expected, _ = both(kernel, [data, np.zeros(1, np.float32)])
    same(native, expected, 1e-5)


def test_nested_reduction_down_columns():
    i, r, s = axis("i0", 37), axis("r0", 5), axis("r1", 4)
    body = B.load(0, (r.symbol * 4 + s.symbol) * 37 + i.symbol, "f32")
    value = B.reduce("sum", r, B.unary("exp", B.reduce("max", s, body)))
    kernel = make(["f32", "f32>"], [i], [Store(1, i.symbol, value, 1)])
    data = np.random.default_rng(0).standard_normal(5 * 4 * 37).astype(np.float32)
    native, expected, _ = both(kernel, [data, np.zeros(37, np.float32)])
    same(native, expected, 1e-5)


def test_ragged_reduction():
    n, i = 50, axis("i0", 4)
    r = Axis("r0", minimum(const(16), n - i.symbol * 16))
    value = B.reduce("sum", r, B.load(0, i.symbol * 16 + r.symbol, "f32"))
    kernel = make(["f32", "f32>"], [i], [Store(1, i.symbol, value, 1)])
    data = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    native, expected, _ = both(kernel, [data, np.zeros(4, np.float32)])
    same(native, expected, 1e-5)


def softmax_kernel(rows, columns, sizes=()):
    i, j, r, s = axis("i0", rows), axis("i1", columns), axis("r0", columns), axis("r1", columns)

    def x(a):
        return B.load(0, i.symbol * columns + a.symbol, "f32")

    top = B.reduce("max", r, x(r))

    def e(a):
        return B.unary("exp", B.binary("sub", x(a), top))

    value = B.binary("div", e(j), B.reduce("sum", s, e(s)))
    stores = [
        Store(1, i.symbol * columns + j.symbol, value, 2),
        Store(2, i.symbol, B.unary("log", B.reduce("sum", s, e(s))), 1),
    ]
    return make(["f32", "f32>", "f32>"], [i, j], stores, sizes)


@pytest.mark.parametrize("columns", [1, 7, 8, 31, 33, 64, 100, 1000])
def test_softmax_rows(columns):
    rows = 5
    data = values("f32", rows * columns)
    data = np.where(np.abs(data) > 100, 1, data)
    buffers = [data, np.zeros(rows * columns, np.float32), np.zeros(rows, np.float32)]
    native, expected, _ = both(softmax_kernel(rows, columns), buffers)
    same(native, expected, 3e-6, 1e-7)


def test_softmax_rows_of_dynamic_sizes():
    kernel = softmax_kernel(symbol("n0", 0), symbol("n1", 0), ["n0", "n1"])
    for rows, columns in [(1, 1), (3, 40), (2, 77)]:
        data = np.random.default_rng(0).standard_normal(rows * columns).astype(np.float32)
        buffers = [data, np.zeros(rows * columns, np.float32), np.zeros(rows, np.float32)]
        native, expected, _ = both(kernel, buffers, (rows, columns))
        same(native, expected, 3e-6)


def test_layer_norm_of_four_axes():
    a, b, c = axis("i0", 2), axis("i1", 3), axis("i2", 50)
    r, s = axis("r0", 50), axis("r1", 50)

    def x(k):
        return B.load(0, (a.symbol * 3 + b.symbol) * 50 + k.symbol, "f64")

    mean = B.binary("mul", B.reduce("sum", r, x(r)), B.literal(1 / 50, "f64"))
    d = B.binary("sub", x(s), mean)
    variance = B.reduce("sum", s, B.binary("mul", d, d))
    value = B.binary("mul", B.binary("sub", x(c), mean), B.unary("rsqrt", variance))
    kernel = make(
        ["f64", "f64>"], [a, b, c], [Store(1, (a.symbol * 3 + b.symbol) * 50 + c.symbol, value, 3)]
    )
    data = np.random.default_rng(0).standard_normal(300)
    native, expected, _ = both(kernel, [data, np.zeros(300)])
    same(native, expected, 1e-12, 1e-13)


def test_philox_words():
    i = axis("i0", 77)
    seed, call = B.index(symbol("n0", 0)), B.index(symbol("n1", 0))
    kernel = make(
        ["u32>"], [i], [Store(0, i.symbol, B.philox(seed, call, i.symbol + 3), 1)], ["n0", "n1"]
    )
    native, expected, _ = both(kernel, [np.zeros(77, np.uint32)], (2**40 + 12345, 7))
    same(native, expected)


def test_strict_arithmetic_is_not_contracted():
    i = axis("i0", 64)
    product = make_term("strict_mul", "f32", (at(0, i, "f32"), at(1, i, "f32")))
    value = make_term("strict_add", "f32", (product, at(2, i, "f32")))
    kernel = flat(64, value, "f32", ["f32"] * 3)
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(64).astype(np.float32) for _ in range(2))
    out = np.zeros(64, np.float32)
    run_kernel(kernel, [x, y, -(x * y), out])
    assert (out == 0).all()


def test_equal_kernels_are_compiled_once():
    first, again = softmax_kernel(3, 8), softmax_kernel(3, 8)
    assert compile_kernels([first])[0] is compile_kernels([again])[0]


def test_values_shared_between_passes_agree_with_computing_them_again(monkeypatch):
    from plait.backends.llvm.native import emit_loops

    rows, columns = 3, 77
    data = np.random.default_rng(0).standard_normal(rows * columns).astype(np.float32)
    results = []
    for dear, name in itertools.product((8, 10**9), ("f32",)):
        monkeypatch.setattr(emit_loops, "DEAR", dear)
        kernel = softmax_kernel(rows, columns)
        # Another buffer list makes another kernel for the table of compiled ones.
        extra = (*kernel.buffers, *(BufferParam(name, "in") for _ in range(dear == 8)))
        kernel = Kernel("test", extra, (), kernel.axes, kernel.stores)
        out, logs = np.zeros(rows * columns, np.float32), np.zeros(rows, np.float32)
        run_kernel(kernel, [data, out, logs, data][: len(extra)])
        results.append(out)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_axes_of_equal_extent_are_not_confused():
    i, j, r, s = axis("i0", 3), axis("i1", 3), axis("r1", 3), axis("r0", 3)

    def value(row, column):
        left = B.load(0, row.symbol * 3 + column.symbol, "f32")
        return B.binary("max", left, B.load(1, row.symbol, "f32"))

    total = B.reduce("sum", r, B.reduce("sum", s, value(r, s)))
    stores = [
        Store(2, i.symbol * 3 + j.symbol, value(i, j), 2),
        Store(3, ZERO, total, 0),
        Store(4, i.symbol * 3 + j.symbol, B.binary("mul", value(i, j), total), 2),
    ]
    kernel = make(["f32", "f32", "f32>", "f32>", "f32>"], [i, j], stores)
    random = np.random.default_rng(0)
    x, y = random.standard_normal(9).astype(np.float32), random.standard_normal(3)
    out = [np.zeros(size, np.float32) for size in (9, 1, 9)]
    native, expected, _ = both(kernel, [x, y.astype(np.float32), *out])
    same(native, expected, 1e-6)


@pytest.mark.parametrize("columns", [3, 40, 1100])
@pytest.mark.parametrize("batch", [1, 3])
def test_statistics_down_columns(batch, columns):
    rows = 21
    b, j, r, s = axis("i0", batch), axis("i1", columns), axis("r0", rows), axis("r1", rows)

    def x(a):
        return B.load(0, (b.symbol * rows + a.symbol) * columns + j.symbol, "f32")

    mean = B.binary("mul", B.reduce("sum", r, x(r)), B.literal(1 / rows, "f32"))
    apart = B.binary("sub", x(s), mean)
    variance = B.reduce("sum", s, B.binary("mul", apart, apart))
    place = b.symbol * columns + j.symbol
    stores = [Store(1, place, mean, 2), Store(2, place, B.unary("sqrt", variance), 2)]
    kernel = make(["f32", "f32>", "f32>"], [b, j], stores)
    data = np.random.default_rng(0).standard_normal(batch * rows * columns).astype(np.float32)
    out = [np.zeros(batch * columns, np.float32) for _ in range(2)]
    native, expected, _ = both(kernel, [data, *out])
    same(native, expected, 1e-5, 1e-6)


def test_kept_values_do_not_outlive_their_row():
    r, s = axis("r0", 5), axis("r1", 19)
    e = B.unary("exp", B.load(0, r.symbol * 19 + s.symbol, "f32"))
    apart = B.binary("sub", B.reduce("max", s, e), e)
    first = B.reduce("sum", r, B.reduce("sum", s, apart))
    second = B.reduce("sum", r, B.binary("mul", B.reduce("sum", s, e), first))
    kernel = make(["f32", "f32>"], [], [Store(1, ZERO, second, 0)])
    data = np.random.default_rng(0).standard_normal(95).astype(np.float32)
    native, expected, _ = both(kernel, [data, np.zeros(1, np.float32)])
    same(native, expected, 1e-5)


def test_rows_too_long_for_the_stack():
    columns = 30_001
    data = np.random.default_rng(0).standard_normal(2 * columns).astype(np.float32)
    buffers = [data, np.zeros(2 * columns, np.float32), np.zeros(2, np.float32)]
    native, expected, _ = both(softmax_kernel(2, columns), buffers)
    same(native, expected, 1e-4)


def test_ragged_rows_with_shared_values():
    n, i = 50, axis("i0", 4)
    r = Axis("r0", minimum(const(16), n - i.symbol * 16))
    e = B.unary("exp", B.load(0, i.symbol * 16 + r.symbol, "f32"))
    total = B.reduce("sum", r, B.binary("mul", e, B.reduce("max", r, e)))
    kernel = make(["f32", "f32>"], [i], [Store(1, i.symbol, total, 1)])
    data = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    native, expected, _ = both(kernel, [data, np.zeros(4, np.float32)])
    same(native, expected, 1e-5)
