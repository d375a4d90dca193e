"""Every element type in native code against the loop interpreter: all operations, casts, rounding.

One kernel computes many operations of a type, since a compile costs more than what it computes.
"""

import ml_dtypes
import numpy as np
import pytest

from plait.backends.llvm.loop import builder as B
from plait.backends.llvm.loop.interpret import NUMPY_DTYPES, interpret
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, ScatterIndex, Store
from plait.backends.llvm.loop.terms import COMPARISONS, Axis, GatherDim, make_term
from plait.backends.llvm.native import conversions, target
from plait.backends.llvm.native.kernels import run_kernel
from plait.symbolic.expr import const

INTEGERS = ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"]
HALVES = ["f16", "bf16"]
ON_INTEGERS = {
    1: ["neg", "abs", "sign", "not"],
    2: [
        "add", "sub", "mul", "pow", "floordiv", "mod", "fmod", "truncdiv", "max", "min", "and",
        "or", "xor", "shl", "shr", *sorted(COMPARISONS),
    ],
}  # fmt: skip
ON_HALVES = {
    1: [
        "neg", "abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "recip", "erf", "sin", "cos",
        "tanh", "sigmoid", "floor", "ceil", "trunc", "round", "isnan", "isinf",
    ],
    2: ["add", "sub", "mul", "div", "max", "min", "copysign", *sorted(COMPARISONS)],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    """NumPy warns of NaN, overflow and division by zero in what it is compared with."""
    with np.errstate(all="ignore"):
        yield


def run(results, inputs, count):
    """(native, interpreted) outputs of a kernel that stores the terms; it reads the inputs."""
    i = Axis("i0", const(count))
    outs = range(len(inputs), len(inputs) + len(results))
    names = {kind: name for name, kind in NUMPY_DTYPES.items()}
    params = [BufferParam(names[x.dtype], "in") for x in inputs]
    params += [BufferParam(term.dtype, "out") for term in results]
    stores = [Store(k, i.symbol, term, 1) for k, term in zip(outs, results)]
    kernel = Kernel("test", tuple(params), (), (i,), tuple(stores))
    pairs = []
    for execute in (run_kernel, interpret):
        buffers = [*inputs, *(np.zeros(count, NUMPY_DTYPES[term.dtype]) for term in results)]
        execute(kernel, buffers, ())
        pairs.append(buffers[len(inputs) :])
    return pairs


def loaded(number, dtype, count):
    return B.load(number, Axis("i0", const(count)).symbol, dtype)


def applied(table, dtype, count, operands):
    """Every operation of a table over loads of the operands."""
    args = tuple(loaded(k, dtype, count) for k in range(operands))
    to_bool = COMPARISONS | {"isnan", "isinf"}
    return [make_term(op, "i1" if op in to_bool else dtype, args) for op in table[operands]]


def integers(dtype):
    """Pairs of the least, the greatest, small and random numbers, zero among them."""
    info = np.iinfo(NUMPY_DTYPES[dtype])
    edge = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 5, 7, info.max // 2]
    edge += [-1, -2, -3, -7] if info.min else []
    random = np.random.default_rng(0).integers(info.min, info.max, 20, NUMPY_DTYPES[dtype])
    some = np.concatenate([np.array(edge, NUMPY_DTYPES[dtype]), random])
    x, y = np.meshgrid(some, some)
    return x.ravel().copy(), y.ravel().copy()


@pytest.mark.parametrize("operands", [1, 2])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_operations_on_integers(dtype, operands):
    inputs = integers(dtype)[:operands]
    terms = applied(ON_INTEGERS, dtype, len(inputs[0]), operands)
    native, expected = run(terms, inputs, len(inputs[0]))
    for op, got, want in zip(ON_INTEGERS[operands], native, expected, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=f"{op} {dtype}")


def numbers(dtype):
    """Special numbers, subnormal ones and random ones of a floating type."""
    kind = NUMPY_DTYPES[dtype]
    tiny = float(ml_dtypes.finfo(kind).smallest_subnormal)
    most = float(ml_dtypes.finfo(kind).max)
    edge = [0.0, -0.0, 1, -1, 0.5, -2.5, 1.5, np.inf, -np.inf, np.nan, tiny, -3 * tiny, most, -most]
    random = np.random.default_rng(0).standard_normal(30) * 3
    return np.concatenate([edge, random]).astype(np.float64).astype(kind)


@pytest.mark.parametrize("operands", [1, 2])
@pytest.mark.parametrize("dtype", HALVES)
def test_operations_on_halves_round_once(dtype, operands):
    x = numbers(dtype)
    grid = [x] if operands == 1 else [g.ravel().copy() for g in np.meshgrid(x, x)]
    terms = applied(ON_HALVES, dtype, len(grid[0]), operands)
    native, expected = run(terms, grid, len(grid[0]))
    last_place = float(ml_dtypes.finfo(NUMPY_DTYPES[dtype]).eps)
    exact = {"neg", "abs", "floor", "ceil", "trunc", "round", *ON_HALVES[2]}
    for op, got, want in zip(ON_HALVES[operands], native, expected, strict=True):
        np.testing.assert_allclose(
            got.astype(np.float64),
            want.astype(np.float64),
            rtol=0 if op in exact else last_place,
            err_msg=f"{op} {dtype}",
        )


# Casts -------------------------------------------------------------------------------------------

# NumPy converts to uint32 in vectors and their tails differently; what it does then is not defined.
INSIDE_U32 = [300.7, -1.5, 3e9, 2.0**31, 0.0, 2.0**32 - 1024]
OUTSIDE = [np.nan, np.inf, -np.inf, 300.7, -1.5, 3e9, -3e9, 1e20, -1e20, 2.0**31, 2.0**63, 0.0]


@pytest.mark.parametrize("source", ["f32", "f64", *HALVES])
def test_a_float_that_no_integer_holds_becomes_what_it_does_in_eager(source):
    for kinds, numbers_ in (([k for k in INTEGERS if k != "u32"], OUTSIDE), (["u32"], INSIDE_U32)):
        x = np.resize(numbers_, 37).astype(NUMPY_DTYPES[source])
        x = np.where(np.isinf(x) & (kinds == ["u32"]), x.dtype.type(1), x)
        terms = [make_term("cast", kind, (loaded(0, source, 37),)) for kind in kinds]
        native, expected = run(terms, [x], 37)
        for kind, got, want in zip(kinds, native, expected, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=f"{source} -> {kind}")


@pytest.mark.parametrize("source", INTEGERS)
def test_integers_convert_to_every_type(source):
    x = integers(source)[0]
    kinds = [k for k in NUMPY_DTYPES if k != source]
    terms = [make_term("cast", kind, (loaded(0, source, len(x)),)) for kind in kinds]
    native, expected = run(terms, [x], len(x))
    for kind, got, want in zip(kinds, native, expected, strict=True):
        same_numbers(got, want, f"{source} -> {kind}")


def same_numbers(got, want, label):
    """Equal, NaN where NaN, with the same sign of zero."""
    if got.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want, err_msg=label)
        return
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(got, want, err_msg=label)
    here = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[here], np.signbit(want)[here], err_msg=label)


def near_ties(dtype):
    """f32 at, just above and just below what lies halfway between two halves; and beyond them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(NUMPY_DTYPES[dtype])
    wide = every.astype(np.float32)
    between = (wide.astype(np.float64) + np.roll(wide, 1)).astype(np.float32) / 2
    around = [np.nextafter(between, np.float32(s)) for s in (np.inf, -np.inf)]
    return np.concatenate([wide, between, *around]).astype(np.float32)


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_halves_convert_exactly(dtype, has_instructions, monkeypatch):
    if not has_instructions:
        plain = target.host()._replace(features="")
        monkeypatch.setattr(conversions, "host", lambda: plain)
    every = np.arange(1 << 16, dtype=np.uint16).view(NUMPY_DTYPES[dtype])
    x = near_ties(dtype)
    # Kernels are kept by structure: other sizes, so that each way is really emitted.
    count = len(x) - has_instructions
    rounded = make_term("cast", dtype, (loaded(0, "f32", count),))
    native, expected = run([rounded], [x], count)
    same_numbers(native[0], expected[0], f"f32 -> {dtype}")
    count = len(every) - has_instructions
    native, expected = run([B.cast(loaded(0, dtype, count), "f32")], [every], count)
    same_numbers(native[0], expected[0], f"{dtype} -> f32")


@pytest.mark.parametrize("dtype", HALVES)
def test_f64_rounds_to_halves_as_if_once(dtype):
    x = near_ties(dtype).astype(np.float64)
    x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
    (got,), _ = run([make_term("cast", dtype, (loaded(0, "f64", len(x)),))], [x], len(x))
    want = x.astype(np.float16) if dtype == "f16" else nearest_bfloat16(x)
    same_numbers(got, want, f"f64 -> {dtype}")


def nearest_bfloat16(x):
    """f64 rounded to bfloat16 in one step (ml_dtypes goes through float32)."""
    below = x.astype(np.float32)
    over = np.abs(below.astype(np.float64)) > np.abs(x)
    bits = below.view(np.uint32) - over
    inexact = (below.astype(np.float64) != x) & ~np.isnan(x)
    return (bits | inexact).view(np.float32).astype(ml_dtypes.bfloat16)


# Roundings that may be left out ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_computed_in_place_stays_in_float32_unless_kept(dtype):
    x = loaded(0, dtype, 8)
    doubled = B.unary("exp", B.cast(x, "f32"))
    half = B.cast(doubled, dtype)
    assert B.cast(half, "f32") is doubled
    assert B.kept(x) is x
    wide = B.cast(B.kept(half), "f32")
    assert (wide.op, wide.args[0].op, wide.args[0].attr) == ("cast", "cast", "kept")
    chosen = B.select(B.unary("isnan", doubled), half, x)
    assert B.cast(chosen, "f32").op == "select"
    kept = B.cast(B.kept(chosen), "f32")
    (got, unrounded), (want, _) = run([kept, doubled], [numbers(dtype)[:8]], 8)
    np.testing.assert_allclose(got, want, rtol=float(ml_dtypes.finfo(NUMPY_DTYPES[dtype]).eps))
    assert (got != unrounded).any()


@pytest.mark.parametrize("dtype", [*HALVES, *INTEGERS, "i1"])
def test_stores_that_add(dtype):
    kind = NUMPY_DTYPES[dtype]
    i = Axis("i0", const(12))
    index = ScatterIndex(B.load(1, i.symbol, "i64"), GatherDim(const(1), const(5), False))
    store = Store(2, const(0), B.load(0, i.symbol, dtype), 1, "add", (index,), 0)
    params = (BufferParam(dtype, "in"), BufferParam("i64", "in"), BufferParam(dtype, "inout"))
    kernel = Kernel("test", params, (), (i,), (store,))
    x = (np.arange(12) % 4).astype(kind)
    places = np.array([0, 1, 1, 4, 4, 4, 3, 3, 2, 0, 0, 1])
    native, expected = np.ones(5, kind), np.ones(5, kind)
    assert run_kernel(kernel, [x, places, native]) == 0
    interpret(kernel, [x, places, expected], ())
    np.testing.assert_array_equal(native.astype(np.float64), expected.astype(np.float64))
