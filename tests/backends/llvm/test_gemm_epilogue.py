"""What follows a matrix product row by row runs on each block of it: one step, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait.backends.llvm import assemble
from plait.backends.llvm.native import pool

functional = plait.nn.functional
ROWS, INNER, COLUMNS = 700, 60, 150


def draw(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype) / 4


def operands(rows=ROWS, inner=INNER, columns=COLUMNS, dtype=np.float32):
    shapes = ((rows, inner), (columns, inner), (columns,), (rows, columns))
    return [draw(*s, seed=k, dtype=dtype) for k, s in enumerate(shapes)]


def tensors(arrays):
    return [plait.from_numpy(a) for a in arrays]


def gelu(x, w, b, r):
    return functional.gelu(functional.linear(x, w, b))


def saved_product(x, w, b, r):
    product = x @ w.t()
    return product, plait.relu(product + b)


EPILOGUES = {
    "gelu": gelu,
    "residual": lambda x, w, b, r: functional.linear(x, w, b) + r,
    "scale": lambda x, w, b, r: (x @ w.t()) * 0.125,
    "cast": lambda x, w, b, r: functional.linear(x, w, b).to(plait.float64),
    "softmax": lambda x, w, b, r: plait.softmax(functional.linear(x, w, b), -1),
    "layer norm": lambda x, w, b, r: functional.layer_norm(
        functional.linear(x, w, b) + r, (COLUMNS,)
    ),
    "turned result": lambda x, w, b, r: functional.relu(functional.linear(x, w, b)).t(),
    "saved product": saved_product,
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogue_is_part_of_the_product(name, dynamic):
    fn, given = EPILOGUES[name], tensors(operands())
    compiled = plait.compile(fn, fullgraph=True, dynamic=dynamic)
    got, want = compiled(*given), fn(*given)
    if not isinstance(got, tuple):
        got, want = (got,), (want,)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-4, atol=1e-5)
    (step,) = compiled.kernels()
    assert step.kind == "gemm" and step.ops[0] == "gemm" and len(step.ops) > 1


def test_linear_and_gelu_name_their_operators():
    compiled = plait.compile(gelu, fullgraph=True)
    compiled(*tensors(operands()))
    (step,) = compiled.kernels()
    assert "gelu" in step.ops and step.values[-1].startswith("gelu")


@pytest.mark.parametrize(
    ("name", "fn"),
    [
        ("sums over rows", lambda x, w, b, r: (x @ w.t()).sum(0)),
        ("reads other rows", lambda x, w, b, r: (x @ w.t()).flip(0) + r),
        ("reads the transpose", lambda x, w, b, r: (x @ w.t()).t().contiguous() * 2),
    ],
)
def test_kernels_that_do_not_follow_rows_are_steps_of_their_own(name, fn):
    given = tensors(operands())
    compiled = plait.compile(fn, fullgraph=True)
    np.testing.assert_allclose(
        compiled(*given).numpy(), fn(*given).numpy(), rtol=1e-4, atol=1e-4, err_msg=name
    )
    assert [step.kind for step in compiled.kernels()] == ["gemm", "kernel"]


def test_large_products_with_few_rows_are_left_to_be_cut_by_columns():
    compiled = plait.compile(gelu, fullgraph=True)
    compiled(*tensors(operands(rows=64, inner=128, columns=512)))
    assert [step.kind for step in compiled.kernels()] == ["gemm", "kernel"]


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operands_turned_either_way(turned, dtype):
    x, w, b, _ = operands(dtype=dtype)
    a = np.ascontiguousarray(x.T) if turned[0] else x
    c = w if turned[1] else np.ascontiguousarray(w.T)

    def fn(a, c, b):
        return plait.tanh((a.t() if turned[0] else a) @ (c.t() if turned[1] else c) + b)

    compiled = plait.compile(fn, fullgraph=True)
    got = compiled(*tensors([a, c, b])).numpy()
    np.testing.assert_allclose(got, np.tanh(x @ w.T + b), rtol=1e-4, atol=1e-5)
    assert len(compiled.kernels()) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row(bad):
    arrays = operands()
    arrays[0][300, 7] = bad
    given = tensors(arrays)
    compiled = plait.compile(gelu, fullgraph=True)
    got, want = compiled(*given).numpy(), gelu(*given).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    assert np.isfinite(np.delete(got, 300, axis=0)).all()


def test_symbolic_rows_from_none_to_many():
    compiled = plait.compile(gelu, fullgraph=True, dynamic=True)
    for rows in (3, 200, 700, 1500, 255, 257):
        given = tensors(operands(rows=rows))
        np.testing.assert_allclose(
            compiled(*given).numpy(), gelu(*given).numpy(), rtol=1e-4, atol=1e-5
        )
    assert len(compiled.entries) == 1
    empty = tensors(operands(rows=0))
    assert compiled(*empty).shape == (0, COLUMNS)


def test_sums_over_nothing():
    given = tensors(operands(inner=0))
    compiled = plait.compile(gelu, fullgraph=True)
    np.testing.assert_allclose(compiled(*given).numpy(), gelu(*given).numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["gelu", "layer norm"])
def test_results_do_not_depend_on_threads(name):
    given = tensors(operands(rows=1024, inner=100))
    compiled = plait.compile(EPILOGUES[name], fullgraph=True)
    before = pool.num_threads()
    try:
        results = []
        for count in (1, 2):
            pool.set_num_threads(count)
            results.append(compiled(*given).numpy())
    finally:
        pool.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_interpreted_plans_agree():
    given = tensors(operands())
    compiled = plait.compile(gelu, fullgraph=True, options={"execute": "interpret"})
    np.testing.assert_allclose(compiled(*given).numpy(), gelu(*given).numpy(), rtol=1e-4, atol=1e-5)
    assert len(compiled.kernels()) == 1


def test_a_chain_of_layers_does_not_write_over_what_is_still_read():
    """Temporaries of a product and its epilogue live at once, so they share no memory."""

    def chain(x, w, b, r):
        for _ in range(3):
            x = functional.gelu(functional.linear(x, w, b))
        return x

    given = tensors(operands(inner=COLUMNS))
    compiled = plait.compile(chain, fullgraph=True)
    np.testing.assert_allclose(
        compiled(*given).numpy(), chain(*given).numpy(), rtol=1e-4, atol=1e-5
    )
    assert [step.kind for step in compiled.kernels()] == ["gemm"] * 3


def test_gradients_with_and_without_epilogues_are_equal(monkeypatch):
    def step(x, w, b, r):
        loss = lambda x, w, b: (functional.gelu(functional.linear(x, w, b)) * r).sum()
        return plait.func.value_and_grad(loss, argnums=(0, 1, 2))(x, w, b)

    given = tensors(operands())
    (loss, grads) = plait.compile(step, fullgraph=True)(*given)
    monkeypatch.setattr(assemble, "is_worth_blocks", lambda m, n, k: False)
    (plain, expected) = plait.compile(step, fullgraph=True)(*given)
    np.testing.assert_allclose(loss.numpy(), plain.numpy(), rtol=1e-4)
    for got, want in zip(grads, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-5)
