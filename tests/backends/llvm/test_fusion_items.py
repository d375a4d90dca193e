"""Each kind of fusion on edge shapes: the kernels with it and without it, and eager's values.

A program has sizes `n` (rows) and `m` (columns); the shapes are ordinary, one element, none, and
symbolic. Inputs hold a NaN where they have room for one.
"""

from __future__ import annotations

import numpy as np
import optree
import pytest

import plait
from plait.backends.llvm.switches import FUSIONS
from plait.base.config import config
from plait.base.errors import InvalidArgument

functional = plait.nn.functional


def f(*shape, seed=0, bad=True):
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if bad and array.size > 3:
        array.flat[array.size // 2] = np.nan
    return plait.tensor(array)


def pair(n, m):
    return f(n, m), f(n, m, seed=1, bad=False)


def turned(x, y):
    return plait.exp(x.t()) + y.t() * 2


def spread(x, y):
    return (x[0].expand(x.shape) + y[:, :1].expand(x.shape)).tanh()


def softened(x, y):
    return plait.softmax(x * 2 + y, -1)


def columns_reduced(x, y):
    return (x * y + 1).sum(0)


def middle_reduced(x, y):
    return (plait.stack([x, y], 1) * 3).amax(1).sum(-1)


def several(x, y):
    e = plait.exp(x)
    return e, e * y, x - y


def row_moments(x, y):
    return x.mean(1), (x * y).sum(1), y.amax(1)


def column_moments(x, y):
    return x.sum(0), (x * y).sum(0)


def written(x, y):
    x.mul_(0.9).add_(y, alpha=0.1)
    y.sub_(x * 0.5)


def many(x, y):
    return [plait.sin(x) + k * y for k in range(3)] + [
        plait.cos(x[k:]) * 2 for k in range(min(4, x.shape[0]))
    ]


def halves(x, y):
    return [plait.exp(t * 2) for t in (*plait.chunk(x, 2), *plait.chunk(y, 2))]


def epilogue(x, y):
    return functional.gelu(x @ y.t() + 1)


KERNELS = {
    "turned": (turned, "views", (1, 3)),
    "spread": (spread, "views", (1, 3)),
    "softened": (softened, "reductions", (1, 5)),
    "columns_reduced": (columns_reduced, "reductions", (1, 3)),
    "several": (several, "outputs", (1, 3)),
    "row_moments": (row_moments, "siblings", (1, 3)),
    "column_moments": (column_moments, "siblings", (1, 2)),
}
"""Program, the kind of fusion it is about, kernels with and without that kind."""
PROGRAMS = [*KERNELS, "middle_reduced", "written", "many", "halves", "epilogue"]
SHAPES = {"usual": (40, 24), "one": (1, 1), "row": (1, 30), "column": (30, 1)}


@pytest.fixture(params=["interpret", "native"])
def options(request):
    return {"execute": request.param}


def equal(got, want):
    for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(want), strict=True):
        if b is not None:
            assert a.shape == b.shape and a.dtype is b.dtype
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-4, atol=1e-5)


def check(fn, make, **settings):
    """Compiled and eager give the same, written arguments included; the compiled function."""
    compiled, mine, theirs = plait.compile(fn, **settings), make(), make()
    equal((compiled(*mine), mine), (fn(*theirs), theirs))
    return compiled


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_with_and_without(name, options):
    fn, kind, (fused, apart) = KERNELS[name]
    make = lambda: pair(*SHAPES["usual"])
    assert len(check(fn, make, options=options).kernels()) == fused
    with config.override(fusion_off=frozenset({kind})):
        kernels = check(fn, make, options=options).kernels()
    assert len(kernels) == apart
    told = [n.reason for k in kernels for n in k.not_fused] + [
        r for k in kernels for r in k.reasons
    ]
    assert f"fusion of kind '{kind}' is switched off (PLAIT_FUSION_OFF)" in told


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_edge_shapes(name, shape, options):
    fn = globals()[name]
    check(fn, lambda: pair(*shape), options=options)
    with config.override(fusion_off=frozenset({"all"})):
        check(fn, lambda: pair(*shape), options=options)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)], ids=["no rows", "no columns"])
@pytest.mark.parametrize(
    "name", ["turned", "columns_reduced", "several", "column_moments", "written", "epilogue"]
)
def test_no_elements(name, shape, options):
    check(globals()[name], lambda: pair(*shape), options=options)


@pytest.mark.parametrize("name", ["several", "written", "halves_of_scalars"])
def test_no_dimensions(name, options):
    fn = globals().get(name) or (lambda x, y: (x.sum(), (x * y).amax(), plait.exp(x)))
    compiled = check(fn, lambda: (f(), f(seed=1)), options=options)
    assert len(compiled.kernels()) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_strided_inputs(name, options):
    def make():
        x, y = pair(48, 80)
        return x.t()[::2], y.t()[1::2]

    fn = globals()[name]
    kernels = len(check(fn, make, options=options).kernels())
    if name in ("turned", "spread", "columns_reduced", "several"):
        assert kernels == 1


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "many"])
def test_symbolic_sizes(name, options):
    fn = globals()[name]
    compiled = plait.compile(fn, options=options, dynamic=True)
    for shape in ((6, 8), (40, 24), (300, 4)):
        mine, theirs = pair(*shape), pair(*shape)
        equal((compiled(*mine), mine), (fn(*theirs), theirs))
    assert len(compiled.entries) == 1 or name == "halves"  # whose sizes are guarded: even or odd
    if name in KERNELS:
        assert len(compiled.kernels()) == KERNELS[name][2][0]


def test_in_place_keeps_addresses_and_copies_nothing(options):
    x, y = pair(40, 24)
    compiled = plait.compile(written, options=options)
    places = x.data_ptr(), y.data_ptr()
    for _ in range(3):
        compiled(x, y)
        assert (x.data_ptr(), y.data_ptr()) == places
    program = compiled._latest().forward_compiled.programs[0]
    assert program.plan.outputs == () and len(compiled.kernels()) == 1
    assert set(compiled.donations().values()) == {
        "holds mutated(x)",
        "holds mutated(y)",
    }
    with config.override(fusion_off=frozenset({"in_place"})):
        apart = check(written, lambda: pair(40, 24), options=options)
    assert len(apart._latest().forward_compiled.programs[0].plan.outputs) == 2
    assert all("switched off" in text for text in apart.donations().values())


def steps(kernels):
    return [kernel.segments for kernel in kernels]


def test_horizontal_with_and_without(options):
    make = lambda: pair(*SHAPES["usual"])
    whole = check(halves, make, options=options).kernels()
    assert steps(whole) == [4] and not whole[0].not_batched
    with config.override(fusion_off=frozenset({"horizontal"})):
        apart = check(halves, make, options=options).kernels()
    assert steps(apart) == [1] * 4 and "switched off" in apart[0].not_batched


def test_horizontal_says_why_not(options):
    dynamic = check(halves, lambda: pair(40, 24), options=options, dynamic=True).kernels()
    assert {k.not_batched for k in dynamic} == {"its sizes are known only when it runs"}


def test_epilogue_with_and_without():
    make = lambda: (f(700, 60), f(150, 60, seed=1, bad=False))
    (whole,) = check(epilogue, make).kernels()
    assert whole.kind == "gemm" and "gelu" in whole.ops
    with config.override(fusion_off=frozenset({"epilogues"})):
        product, after = check(epilogue, make).kernels()
    assert (product.kind, after.kind) == ("gemm", "kernel")
    assert after.not_fused[0].reason.endswith("is switched off (PLAIT_FUSION_OFF)")


@pytest.mark.parametrize(
    ("fn", "rows", "reason"),
    [
        (epilogue, 300, "with 300 rows it is not cut into blocks of rows"),
        (lambda x, y: (x @ y.t()).sum(0), 700, "does not walk its rows one by one"),
        (lambda x, y: plait.exp(x.reshape(7, 100, 60) @ y.t()[None]), 700, "a batch of products"),
    ],
)
def test_epilogue_says_why_not(fn, rows, reason):
    make = lambda: (f(rows, 60), f(150, 60, seed=1, bad=False))
    kernels = check(fn, make).kernels()
    assert [k.kind for k in kernels] == ["gemm", "kernel"]
    assert reason in kernels[1].not_fused[0].reason


def test_explain_shows_it_all():
    text = str(plait.explain(halves)(*pair(40, 24)))
    assert "4 independent kernels as one step" in text
    text = str(plait.explain(written)(*pair(40, 24)))
    assert "x: its new value is put into it at once" in text


def test_unknown_kinds_are_refused():
    with (
        config.override(fusion_off=frozenset({"vertical"})),
        pytest.raises(
            InvalidArgument, match=f"names vertical; expected some of {', '.join(FUSIONS)}"
        ),
    ):
        plait.compile(turned)(*pair(4, 4))
