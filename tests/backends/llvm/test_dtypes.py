"""Element types in compiled graphs: where halves are rounded, products, integer arithmetic."""

import ml_dtypes
import numpy as np
import pytest

import plait
from plait.ops import aten
from plait.tensor.tensor import Tensor, from_numpy

HALVES = [np.float16, ml_dtypes.bfloat16]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


def h(rng, kind, *shape):
    return rng.standard_normal(shape).astype(kind)


def wide(array):
    return np.asarray(array).astype(np.float64)


def last_place(kind):
    return float(ml_dtypes.finfo(kind).eps)


@pytest.mark.parametrize("kind", HALVES)
def test_a_chain_is_rounded_once(maker, rng, kind):
    x = maker.input(h(rng, kind, 40))
    product = maker(aten.mul.Tensor, x, x)
    _, (out,) = maker.run(maker(aten.sub.Tensor, product, x), execute="native")
    a = maker.arrays[0].astype(np.float32)
    np.testing.assert_array_equal(wide(out), wide((a * a - a).astype(kind)))


@pytest.mark.parametrize("execute", ["interpret", "native"])
@pytest.mark.parametrize("kind", HALVES)
def test_an_explicit_cast_rounds_what_it_reads_and_what_it_gives(maker, rng, kind, execute):
    x = maker.input(h(rng, kind, 40))
    half = getattr(plait, "float16" if kind is np.float16 else "bfloat16")
    product = maker(aten.mul.Tensor, x, x)
    up = maker(aten._to_copy.default, product, dtype=plait.float32)
    down = maker(aten._to_copy.default, maker(aten.exp.default, up), dtype=half)
    up_again = maker(aten._to_copy.default, down, dtype=plait.float32)
    _, (first, last) = maker.run(up, up_again, execute=execute)
    rounded = (maker.arrays[0] * maker.arrays[0]).astype(np.float32)
    np.testing.assert_array_equal(first, rounded)
    narrow = last.astype(kind).astype(np.float32)
    np.testing.assert_array_equal(last, narrow)
    np.testing.assert_allclose(last, np.exp(rounded), rtol=last_place(kind))


@pytest.mark.parametrize("kind", HALVES)
def test_equal_elements_stay_equal_to_a_search(maker, rng, kind):
    """Differences that rounding removes do not decide which element is the greatest."""
    x = maker.input((1 + rng.permutation(64) * last_place(kind) / 8).astype(np.float32))
    half = getattr(plait, "float16" if kind is np.float16 else "bfloat16")
    small = maker(aten._to_copy.default, x, dtype=half)
    tripled = maker(aten.mul.Scalar, small, 3.1)
    searches = [maker(aten.argmax.default, tripled), *maker(aten.max.dim, tripled, 0, False)]
    _, (place, best, where) = maker.run(*searches, execute="native")
    eager = aten.mul.Scalar(from_numpy(maker.arrays[0].astype(kind)), 3.1)
    wanted = int(aten.argmax.default(eager).item())
    assert (int(place), int(where)) == (wanted, wanted)
    assert float(best) == float(aten.max.default(eager).item())


@pytest.mark.parametrize("kind", HALVES)
def test_linear_multiplies_in_float32(maker, rng, kind):
    arrays = h(rng, kind, 5, 300), h(rng, kind, 7, 300), h(rng, kind, 7)
    x, w, b = map(maker.input, arrays)
    product = maker(aten.addmm.default, b, x, maker(aten.t.default, w))
    compiled, (out,) = maker.run(product, execute="native")
    assert [k.kind for k in compiled.kernels].count("gemm") == 1
    x, w, b = map(wide, arrays)
    np.testing.assert_allclose(wide(out), x @ w.T + b, rtol=last_place(kind), atol=1e-4)
    assert out.dtype == kind


@pytest.mark.parametrize("execute", ["interpret", "native"])
@pytest.mark.parametrize("kind", HALVES)
def test_products_of_turned_halves(maker, rng, kind, execute):
    a, b = maker.input(h(rng, kind, 2, 6, 5)), maker.input(h(rng, kind, 2, 9, 6))
    turned = [maker(aten.transpose.int, v, 1, 2) for v in (a, b)]
    cut = maker(aten.slice.Tensor, turned[1], 2, 1, 9, 2)
    _, (out,) = maker.run(maker(aten.bmm.default, turned[0], cut), execute=execute)
    left, right = (wide(v).swapaxes(1, 2) for v in maker.arrays)
    np.testing.assert_allclose(
        wide(out), left @ right[:, :, 1::2], rtol=last_place(kind), atol=last_place(kind)
    )


@pytest.mark.parametrize("kind", INTEGERS)
def test_products_of_integers_wrap(maker, rng, kind):
    info = np.iinfo(kind)
    arrays = [rng.integers(info.min, info.max, s, kind) for s in ((4, 6), (6, 5))]
    _, (out,) = maker.run(maker(aten.mm.default, *map(maker.input, arrays)), execute="native")
    np.testing.assert_array_equal(out, arrays[0] @ arrays[1])


@pytest.mark.parametrize("execute", ["interpret", "native"])
@pytest.mark.parametrize("kind", INTEGERS)
def test_arithmetic_of_integers_wraps(maker, rng, kind, execute):
    info = np.iinfo(kind)
    x, y = (maker.input(rng.integers(info.min, info.max, (3, 13), kind)) for _ in range(2))
    total = maker(aten.mul.Tensor, maker(aten.add.Tensor, x, y), x)
    outs = total, maker(aten.lt.Tensor, x, y), maker(aten.amax.default, x, [1], False)
    _, (got, less, most) = maker.run(*outs, execute=execute)
    a, b = maker.arrays
    np.testing.assert_array_equal(got, (a + b) * a)
    np.testing.assert_array_equal(less, a < b)
    np.testing.assert_array_equal(most, a.max(1))


@pytest.mark.parametrize("dtype", [plait.bfloat16, plait.float16])
def test_a_draw_is_rounded_before_it_is_compared(dtype):
    def mask() -> Tensor:
        return plait.rand((1000,), dtype=dtype) < 0.3

    plait.manual_seed(3)
    wanted = mask()
    plait.manual_seed(3)
    assert plait.compile(mask)().tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", [plait.bfloat16, plait.float16])
@pytest.mark.parametrize("op", [aten.index_add.default, aten.scatter_add.default])
def test_halves_that_meet_in_one_place_are_added_in_float32(op, dtype):
    """One at a time they would stop at 256, or 2048."""
    base, ones = plait.full((3,), 2, dtype=dtype), plait.ones(4094, dtype=dtype)
    places = plait.zeros(4094, dtype=plait.int64)
    call = plait.compile(lambda base, ones: op(base, 0, places, ones))
    assert call(base, ones).tolist() == op(base, 0, places, ones).tolist() == [4096, 2, 2]


@pytest.mark.parametrize("dtype", [plait.bfloat16, plait.float16])
def test_gradients_of_a_row_read_many_times_are_added_in_float32(dtype):
    table, rows = (
        plait.ones((4, 2), dtype=dtype).requires_grad_(),
        plait.zeros(4096, dtype=plait.int64),
    )
    for call in (aten.embedding.default, plait.compile(lambda t, r: aten.embedding.default(t, r))):
        out = call(table, rows)
        (found,) = plait.autograd.grad([out], [table], [plait.ones(out.shape, dtype=dtype)])
        assert found.tolist() == [[4096, 4096], [0, 0], [0, 0], [0, 0]]
