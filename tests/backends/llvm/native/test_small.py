"""Generated matrix products: right for every layout and remainder, chosen for small sizes only."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import plait
from plait.backends.llvm.native import entry
from plait.backends.llvm.native.small import small_product
from plait.backends.llvm.plan import Gemm, InputRef, Operand
from plait.symbolic.expr import const, symbol


@pytest.fixture
def chosen(monkeypatch):
    """Forms of the products that were generated."""
    forms = []

    def noted(step):
        made = small_product(step)
        if made is not None:
            forms.append(made.form)
        return made

    monkeypatch.setattr(entry, "small_product", noted)
    return forms


def compiled(fn, *arrays):
    out = plait.compile(fn, fullgraph=True)(*map(plait.from_numpy, arrays))
    return out.numpy()


def draw(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


SIZES = [(1, 5, 1), (4, 16, 16), (5, 3, 17), (8, 16, 32), (7, 9, 35), (2, 40, 1), (1, 33, 20)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("turned", list(itertools.product([False, True], repeat=2)))
def test_every_layout_and_remainder(turned, dtype):
    for m, k, n in SIZES:
        a = draw(*((k, m) if turned[0] else (m, k)), dtype=dtype)
        b = draw(*((n, k) if turned[1] else (k, n)), dtype=dtype)

        def product(a, b):
            return (a.t() if turned[0] else a) @ (b.t() if turned[1] else b)

        expected = (a.T if turned[0] else a) @ (b.T if turned[1] else b)
        np.testing.assert_allclose(compiled(product, a, b), expected, rtol=1e-5, atol=1e-5)


def test_forms(chosen):
    compiled(lambda a, b: a @ b, draw(8, 16), draw(16, 32))
    compiled(lambda a, b: a @ b.t(), draw(8, 16), draw(32, 16))
    compiled(lambda a, b: a @ b, draw(300, 8), draw(8, 200))
    assert chosen == ["outer", "inner", "outer"]
    compiled(lambda a, b: a @ b, draw(300, 64), draw(64, 200))
    assert len(chosen) == 3


def test_a_large_thin_product_is_one_item(chosen):
    a, b = draw(512, 8), draw(8, 256)
    np.testing.assert_allclose(compiled(lambda a, b: a @ b, a, b), a @ b, rtol=1e-4, atol=1e-5)
    assert chosen == ["outer"]


def test_batches_of_heads(chosen):
    q, k = draw(2, 6, 3, 8), draw(2, 6, 3, 8)  # batch, position, head, width

    def scores(q, k):
        return q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1)

    expected = q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(compiled(scores, q, k), expected, rtol=1e-5, atol=1e-5)
    assert chosen == ["inner"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row(bad, turned):
    a, b = draw(5, 13), draw(*((19, 13) if turned else (13, 19)))
    a[2, 12] = bad
    b[...] = np.abs(b)
    got = compiled(lambda a, b: a @ (b.t() if turned else b), a, b)
    assert not np.isfinite(got[2]).any()
    assert np.isfinite(np.delete(got, 2, axis=0)).all()


def test_memory_beside_the_operands_is_not_read():
    """Rows that a mask leaves out may lie outside of the allocation; here they hold NaN."""
    whole = np.full((9, 21), np.nan, np.float32)
    whole[2:7, 3:14] = draw(5, 11)
    inside = whole[2:7, 3:14]
    right = draw(11, 13)
    got = compiled(lambda x, b: x[2:7, 3:14] @ b, whole, right)
    np.testing.assert_allclose(got, inside @ right, rtol=1e-5, atol=1e-5)


def test_no_elements():
    for m, k, n in [(0, 3, 4), (3, 0, 4), (3, 4, 0)]:
        got = compiled(lambda a, b: a @ b, draw(m, k), draw(k, n))
        np.testing.assert_array_equal(got, np.zeros((m, n), np.float32))


def test_symbolic_sizes_go_to_the_library(chosen):
    f = plait.compile(lambda a, b: a @ b, fullgraph=True, dynamic=True)
    for rows in (3, 7):
        a, b = draw(rows, 4), draw(4, 5)
        got = f(plait.from_numpy(a), plait.from_numpy(b)).numpy()
        np.testing.assert_allclose(got, a @ b, rtol=1e-5)
    assert chosen == []


def test_scale_and_addition_are_numbers_of_the_code():
    def operand(row, column):
        return Operand(InputRef(0, const(0)), const(row), const(column))

    sizes = (const(3), const(4), const(5))
    operands = (operand(5, 1), operand(4, 1), operand(4, 1))
    step = Gemm("f32", (), *sizes, *operands, 2.0, 1.0)
    made = small_product(step)
    assert (made.alpha, made.beta, made.form) == (2.0, 1.0, "outer")
    assert "2.0, 1.0" in made.text
    unknown = Gemm("f32", (), symbol("s0"), *sizes[1:], *operands)
    assert small_product(unknown) is None
