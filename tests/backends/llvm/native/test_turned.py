"""Kernels that read along their rows: blocks of a transposed operand go through registers."""

import numpy as np
import pytest

import plait
from plait.backends.llvm.native.emit_loops import TILE


def draw(shape, dtype, seed=0):
    values = np.random.default_rng(seed).integers(-50, 50, shape).astype(dtype)
    if values.size > 3 and values.dtype.kind == "f":
        values.flat[3] = np.nan
    return values


def check(fn, *arrays):
    given = [plait.from_numpy(a) for a in arrays]
    compiled = plait.compile(fn)
    np.testing.assert_allclose(compiled(*given).numpy(), fn(*given).numpy(), rtol=1e-6)
    return compiled


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "i2", "?"])
@pytest.mark.parametrize("shape", [(64, 48), (TILE, TILE), (33, 70), (7, 100), (100, 7), (1, 40)])
def test_a_transposed_operand(shape, dtype):
    x, y = draw(shape[::-1], dtype), draw(shape, dtype, 1)
    compiled = check(lambda x, y: y + x.t(), y.T, x.T)
    compiled = check(lambda x, y: plait.where(y > x.t(), y, x.t()), x, y)
    assert len(compiled.kernels()) == 1


def test_mixed_widths_and_several_operands():
    a, b, c = draw((60, 40), "f4"), draw((60, 40), "f8", 1), draw((40, 60), "f4", 2)
    compiled = check(lambda a, b, c: c * 2 + a.t() * b.t() - a.t(), a, b, c)
    assert len(compiled.kernels()) == 1


@pytest.mark.parametrize("rows", [16, 20, 48])
def test_tiles_that_cross_an_outer_axis(rows):
    x, y = draw((5, 24, rows), "f4"), draw((5, rows, 24), "f4", 1)
    compiled = check(lambda x, y: y - x.transpose(1, 2), x, y)
    assert len(compiled.kernels()) == 1


def test_symbolic_sizes():
    compiled = plait.compile(lambda x, y: y * 3 + x.t(), dynamic=True)
    for shape in ((16, 32), (50, 31), (128, 64)):
        x, y = plait.from_numpy(draw(shape[::-1], "f4")), plait.from_numpy(draw(shape, "f4", 1))
        np.testing.assert_array_equal(compiled(x, y).numpy(), (y * 3 + x.t()).numpy())
    assert len(compiled.entries) == 1


def test_written_over_the_operand_that_is_not_transposed():
    x, y = draw((48, 64), "f4"), draw((64, 48), "f4", 1)

    def fn(x, y):
        y.add_(x.t())

    mine, want = plait.tensor(y), y + x.T
    place = mine.data_ptr()
    plait.compile(fn)(plait.tensor(x), mine)
    np.testing.assert_array_equal(mine.numpy(), want)
    assert mine.data_ptr() == place
