"""Complex numbers in compiled graphs: pairs of real values inside, pairs in memory outside."""

import numpy as np
import pytest

import plait
from plait.backends.llvm.evaluate import Evaluator
from plait.backends.llvm.loop.builder import literal, load
from plait.backends.llvm.loop.interpret import interpret
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, Store
from plait.backends.llvm.loop.terms import Axis
from plait.backends.llvm.lowering.complexmath import FUNCTIONS, Pair, power, quotient
from plait.backends.llvm.lowering.stage import map_stage
from plait.backends.llvm.native.kernels import run_kernel
from plait.base import log
from plait.ops import aten
from plait.symbolic.expr import const
from plait.tensor.tensor import from_numpy

EXECUTE = pytest.mark.parametrize("execute", ["interpret", "native"])


def c(rng, *shape, kind=np.complex64):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(kind)


@EXECUTE
@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 31, 32, 33, 100])
def test_a_chain_is_one_kernel(maker, rng, count, kind, execute):
    z, w = maker.input(c(rng, count, kind=kind)), maker.input(c(rng, count, kind=kind))
    total = maker(aten.add.Tensor, maker(aten.mul.Tensor, z, w), z)
    compiled, (out,) = maker.run(maker(aten._conj_physical.default, total), execute=execute)
    assert [k.kind for k in compiled.kernels] == ["kernel"]
    a, b = maker.arrays
    assert out.dtype == kind
    np.testing.assert_allclose(out, np.conj(a * b + a), rtol=1e-5, atol=1e-5)


@EXECUTE
def test_parts_of_a_strided_input(maker, rng, execute):
    z = maker.input(c(rng, 6, 10)[1:, ::2].T)
    parts = [maker(aten.select.int, maker(aten.view_as_real.default, z), -1, k) for k in (0, 1)]
    both = maker(aten.sub.Tensor, parts[1], parts[0])
    _, (re, out) = maker.run(maker(aten.mul.Scalar, parts[0], 2.0), both, execute=execute)
    np.testing.assert_array_equal(re, maker.arrays[0].real * 2)
    np.testing.assert_array_equal(out, maker.arrays[0].imag - maker.arrays[0].real)


@EXECUTE
def test_sizes_that_are_symbols(rng, execute):
    """The last elements of a row of unknown length are stored under a mask."""
    call = plait.compile(lambda z: aten.exp.default(z) * 2, dynamic=True)
    for count in (5, 8, 13):
        x = c(rng, 3, count)
        np.testing.assert_allclose(call(from_numpy(x)).numpy(), np.exp(x) * 2, rtol=2e-5)


def _views(z):
    product = z * z
    real = aten.view_as_real.default(product)
    return product, real, aten.select.int(real, -1, 1), product.T, aten.imag.default(z), z[1:]


def test_views_of_one_memory_in_two_types(rng):
    z = from_numpy(c(rng, 3, 4))
    for got, want in zip(plait.compile(_views)(z), _views(z), strict=True):
        assert (got.dtype, got.strides) == (want.dtype, want.strides)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
    imaginary = plait.compile(_views)(z)[4]
    assert imaginary.data_ptr() == z.data_ptr() + 4


def test_a_real_part_alone_computes_nothing_else(maker, rng):
    z = maker.input(c(rng, 9))
    real = maker(aten.view_as_real.default, maker(aten.exp.default, z))
    compiled, _ = maker.run(maker(aten.neg.default, maker(aten.select.int, real, -1, 0)))
    assert "sin" not in compiled.listing("loop")


@EXECUTE
@pytest.mark.parametrize("shape", [(7,), (3, 1), (2, 8), (1, 5)])
def test_products_along_a_dimension(maker, rng, shape, execute):
    z = maker.input(c(rng, *shape))
    outs = [maker(aten.prod.dim_int, z, d, False) for d in range(len(shape))]
    _, results = maker.run(maker(aten.prod.default, z), *outs, execute=execute)
    np.testing.assert_allclose(results[0], maker.arrays[0].prod(), rtol=1e-4)
    for d, out in enumerate(results[1:]):
        np.testing.assert_allclose(out, maker.arrays[0].prod(d), rtol=1e-4)


def test_a_product_is_four_real_ones(maker, rng):
    arrays = c(rng, 40, 50), c(rng, 50, 30), c(rng, 30)
    z, w, bias = map(maker.input, arrays)
    product = maker(aten.addmm.default, bias, z, w, beta=2.0, alpha=1 - 1j)
    compiled, (out,) = maker.run(product, execute="native")
    assert [k.kind for k in compiled.kernels].count("gemm") == 4
    a, b, x = arrays
    np.testing.assert_allclose(out, 2 * x + (1 - 1j) * (a @ b), rtol=1e-4, atol=1e-4)


def test_complex_values_pass_eager_calls(rng):
    """What is not compiled runs between native segments, with complex tensors on both sides."""
    z = from_numpy(c(rng, 4, 4))

    def f(z):
        middle = aten.as_strided_scatter.default(z, z[0] * 2, (4,), (5,), 0)
        return aten.abs.default(middle * 1j)

    log.clear()
    got = plait.compile(f)(z)
    reason = "as_strided_scatter into a view that may begin elsewhere"
    assert [e.reason for e in log.events("fallback")] == [reason]
    np.testing.assert_allclose(got.numpy(), f(z).numpy(), rtol=1e-5)


def test_strides_over_a_complex_input_replace_elements_natively(rng):
    z = from_numpy(c(rng, 4, 4))
    call = lambda z: aten.as_strided_scatter.default(z, z[0] * 2, (4,), (5,))
    log.clear()
    np.testing.assert_allclose(plait.compile(call)(z).numpy(), call(z).numpy(), rtol=1e-6)
    assert not log.events("fallback")


# ---------------------------------------------------------------- functions

EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 30.0, -30.0, 1e-20, 1e30, -1e30, np.inf, -np.inf, np.nan]


def _evaluated(fn, *operands):
    """fn over arrays of complex128, natively and by the interpreter."""
    count = operands[0].size
    i = Axis("i0", const(count))
    buffers = [np.ascontiguousarray(part) for z in operands for part in (z.real, z.imag)]
    loads = [load(k, i.symbol, "f64") for k in range(len(buffers))]
    result = fn(*(Pair(*loads[k : k + 2]) for k in range(0, len(loads), 2)))
    params = [BufferParam("f64", "in")] * len(buffers) + [BufferParam("f64", "out")] * 2
    stores = [Store(len(buffers) + k, i.symbol, part, 1) for k, part in enumerate(result)]
    kernel = Kernel("test", tuple(params), (), (i,), tuple(stores))
    found = []
    for execute in (run_kernel, interpret):
        memory = [*buffers, np.zeros(count), np.zeros(count)]
        execute(kernel, memory, ())
        out = np.empty(count, np.complex128)
        out.real, out.imag = memory[-2:]
        found.append(out)
    return found


def _plane(rng):
    """Random numbers of all sizes."""
    size = 10.0 ** rng.uniform(-3, 2, 400)
    return size * np.exp(2j * np.pi * rng.random(400))


NUMPY = {
    "rsqrt": lambda z: 1 / np.sqrt(z), "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "silu": lambda z: z / (1 + np.exp(-z)), "sgn": lambda z: z / np.abs(z),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_agree_with_numpy(name, rng):
    z = _plane(rng)
    with np.errstate(all="ignore"):
        want = NUMPY.get(name, getattr(np, name, None))(z)
        found = _evaluated(FUNCTIONS[name], z)
    assert np.isfinite(want).all()
    for got in found:
        scale = np.maximum(np.abs(want), 1e-3 if name in ("log", "log2", "log10", "log1p") else 0)
        assert (np.abs(got - want) <= 1e-12 * scale).all()


def _grid():
    re, im = np.meshgrid(EDGES, EDGES)
    z = np.empty(re.size, np.complex128)
    z.real, z.imag = re.ravel(), im.ravel()
    return z


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "reciprocal"])
def test_functions_at_zeros_and_large_numbers(name):
    """Where both parts are finite, results are finite, infinite or NaN where NumPy's are."""
    z = _grid()
    z = z[np.isfinite(z)]
    with np.errstate(all="ignore"):
        want = getattr(np, name)(z)
        found = _evaluated(FUNCTIONS[name], z)
        for got in found:
            for ours, own in ((got.real, want.real), (got.imag, want.imag)):
                np.testing.assert_allclose(ours, own, rtol=1e-12, atol=1e-38, err_msg=name)


def test_quotients_do_not_overflow(rng):
    a, b = _plane(rng) * 1e200, _plane(rng) * 1e250
    for got in _evaluated(quotient, a, b):
        np.testing.assert_allclose(got, a / b, rtol=1e-13)


def test_powers(rng):
    z, w = _plane(rng), _plane(rng) / 30
    z[:3], w[:3] = 0, [0, 2, -1]
    with np.errstate(all="ignore"):
        want = z**w
        for got in _evaluated(power, z, w):
            np.testing.assert_allclose(got[3:], want[3:], rtol=1e-11)
            assert got[0] == 1 and got[1] == 0 and np.isnan(got[2])


def test_a_constant_is_a_pair():
    assert FUNCTIONS["square"](Pair(literal(2.0, "f64"), literal(1.0, "f64"))) == Pair(
        literal(3.0, "f64"), literal(4.0, "f64")
    )


def test_a_stage_made_for_one_read_is_not_taken_for_the_next():
    """What is kept of an element is kept with its stage: ids of dead stages come back."""
    evaluator = Evaluator(lambda stage: False)
    zero = const(0)
    for number in range(100):
        term = literal(float(number), "f32")
        stage = map_stage("s", "test", (const(1),), "f32", [], lambda read, i, term=term: term)
        assert evaluator.compute(stage, (zero,)) is term
        del stage
