"""Why kernels are not one kernel: every boundary has a reason."""

import numpy as np

from plait.ops import aten


def f(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def reasons(compiled):
    return [[n.reason for n in info.not_fused] for info in compiled.kernels]


def test_a_product_parts_what_it_reads_and_what_reads_it(maker, rng):
    x, w = maker.input(f(rng, 4, 6)), maker.input(f(rng, 6, 3))
    y = maker(aten.mm.default, maker(aten.exp.default, x), w)
    compiled, _ = maker.run(maker(aten.relu.default, y))
    first, product, last = compiled.kernels
    assert first.not_fused == ()
    assert [n.reason for n in product.not_fused] == ["a matrix product reads exp"]
    assert [n.reason for n in last.not_fused] == [
        "mm is made by a matrix product: with 4 rows it is not cut into blocks of rows"
    ]
    assert str(product.not_fused[0]) == ("not fused with exp (exp): a matrix product reads exp")


def test_different_spaces_are_named(maker, rng):
    x = maker.input(f(rng, 6, 40))
    total = maker(aten.sum.dim_IntList, maker(aten.exp.default, x), [1])
    y = maker(aten.mul.Tensor, total, maker.input(f(rng, 5, 6)))
    compiled, _ = maker.run(maker(aten.cos.default, y))
    assert reasons(compiled)[1] == ["different spaces (6, 40) and (5, 6)"]


def test_a_column_read_along_its_row(maker, rng):
    x = maker.input(f(rng, 8, 8))
    s = maker(aten.sum.dim_IntList, x, [1], True)
    compiled, _ = maker.run(maker(aten.add.Tensor, x, maker(aten.t.default, s)))
    assert reasons(compiled)[1] == ["add would need sum_sum before its row is finished"]


def test_independent_kernels_have_no_boundary(maker, rng):
    x, y = maker.input(f(rng, 8)), maker.input(f(rng, 9))
    compiled, _ = maker.run(maker(aten.exp.default, x), maker(aten.exp.default, y))
    assert reasons(compiled) == [[], []]
