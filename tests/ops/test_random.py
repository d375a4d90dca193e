"""Random numbers: Philox, distributions, generators, operators and their explicit forms."""

from __future__ import annotations

import math
import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from mpmath import erfinv, mp, mpf

import plait
from plait.base.errors import InvalidArgument, MissingKernel
from plait.dispatch.dispatcher import lookup
from plait.dispatch.tags import Tag
from plait.ops import aten, philox
from plait.ops.normal_draw import ARRAYS, normal_from_word
from plait.ops.random import Generator, default_generator, get_rng_state, set_rng_state
from plait.testing import compare
from plait.testing.samples import SampleInput, make, samples
from plait.testing.samples.inputs import layouts
from plait.testing.samples.random import RANDOM, SEED

EXPLICIT = [form.qualname for name in RANDOM if (form := lookup(name).explicit_random)]
SOURCES = ["plait::philox_uniform", "plait::philox_normal"]


def calls(names: list[str] | tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(name, sample, id=f"{name.partition('::')[2]}-{sample.name}")
        for name in names
        for sample in samples(name)
    ]


def _arrays(out: Any) -> list[Any]:
    return [t.numpy(force=True) for t in (out if isinstance(out, tuple) else (out,))]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers of Random123
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: Any, key: Any, expected: Any) -> None:
    blocks = philox.philox_blocks([np.full(1, c, np.uint64) for c in counter], key)
    assert tuple(int(word[0]) for word in blocks) == expected


def test_a_draw_depends_on_nothing_but_its_place() -> None:
    whole = philox.words(SEED, 5, 40_000)
    np.testing.assert_array_equal(philox.words(SEED, 5, 7), whole[:7])
    np.testing.assert_array_equal(philox.words(SEED, 5, 9, first=20_000), whole[20_000:20_009])
    drawn = philox.uniforms(SEED, 5, 40_000, np.float32)
    np.testing.assert_array_equal(drawn, (whole >> 8) * np.float32(2.0**-24))
    assert not np.array_equal(philox.words(SEED, 6, 7), whole[:7])


def test_words_use_all_bits_of_seed_and_call() -> None:
    seen = {philox.words(s, c, 1)[0] for s in (1, 1 + 2**32, -1) for c in (1, 1 + 2**32)}
    assert len(seen) == 6


# ---------------------------------------------------------------- distributions


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_draws_are_uniform(dtype: Any) -> None:
    u = philox.uniforms(SEED, 0, 200_000, dtype)
    assert u.dtype == dtype and u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    chi2 = ((counts - u.size / 64) ** 2 / (u.size / 64)).sum()
    assert 30 < chi2 < 110  # 63 degrees of freedom
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_draws_are_normal(dtype: Any) -> None:
    z = philox.normals(SEED, 0, 400_000, dtype).astype(np.float64)
    assert abs(z.mean()) < 0.006 and abs(z.std() - 1) < 0.005
    assert abs((z**3).mean()) < 0.02 and abs((z**4).mean() - 3) < 0.05
    below = np.sort(z)
    quantiles = np.linspace(0.02, 0.98, 49)
    at = np.array([0.5 * (1 + math.erf(below[int(q * z.size)] / math.sqrt(2))) for q in quantiles])
    assert np.abs(at - quantiles).max() < 0.004


@pytest.mark.parametrize(("dtype", "bound"), [("f32", 5e-7), ("f64", 2e-15)])
def test_normal_is_the_inverse_of_the_distribution(dtype: str, bound: float) -> None:
    edges = [0, 1, 2, 2**31 - 1, 2**31 - 2, 2**31, 2**32 - 1, 2**32 - 2]
    edge_of_branches = int(0.425 * 2**32)
    near = range(edge_of_branches - 3, edge_of_branches + 3)
    word = np.concatenate([np.array([*edges, *near], np.uint32), philox.words(SEED, 0, 1500)])
    got = normal_from_word(ARRAYS, word, dtype).astype(np.float64)
    with mp.workdps(30):
        size = [
            mp.sqrt(2) * erfinv((2 * mpf(int(w) & 0x7FFFFFFF) + 1) / 2**32) for w in word.tolist()
        ]
        wanted = np.array([float(-s if w >> 31 else s) for s, w in zip(size, word.tolist())])
    np.testing.assert_allclose(got, wanted, rtol=bound, atol=0)


def test_normal_is_finite_and_symmetric_for_every_kind_of_word() -> None:
    word = np.array([0, 1, 2**31 - 1], np.uint32)
    for dtype in ("f32", "f64"):
        size = normal_from_word(ARRAYS, word, dtype)
        assert np.isfinite(size).all() and (size > 0).all()
        np.testing.assert_array_equal(normal_from_word(ARRAYS, word | 2**31, dtype), -size)


# ---------------------------------------------------------------- generators


def test_manual_seed_repeats_the_draws() -> None:
    plait.manual_seed(11)
    first = [plait.rand(3).tolist(), plait.randn(3).tolist()]
    assert plait.manual_seed(11) is default_generator()
    assert [plait.rand(3).tolist(), plait.randn(3).tolist()] == first
    assert plait.rand(3).tolist() != first[0]


def test_a_call_takes_one_number_whatever_its_size() -> None:
    generator = plait.manual_seed(3)
    for size in (0, 1, 1000):
        plait.rand(size)
    assert generator.next_call() == 3
    assert generator.reserve(4) == (3, 4)
    assert generator.next_call() == 8


def test_state_can_be_kept_and_restored() -> None:
    plait.manual_seed(5)
    plait.rand(1)
    state = get_rng_state()
    drawn = plait.rand(4).tolist()
    set_rng_state(state)
    assert plait.rand(4).tolist() == drawn


@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1, 2**63, -(2**63)])
def test_seeds_are_64_bits(seed: int) -> None:
    generator = Generator(seed)
    assert generator.initial_seed() == seed % 2**64
    assert -(2**63) <= generator.reserve(1)[0] < 2**63
    assert generator.reserve(1)[0] == Generator(seed % 2**64).reserve(1)[0]


def test_seeds_beyond_64_bits_are_refused() -> None:
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(InvalidArgument, match="64 bits"):
            plait.manual_seed(seed)


def test_threads_share_no_call_number() -> None:
    generator, taken = Generator(1), []

    def work() -> None:
        taken.extend(generator.next_call() for _ in range(500))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(2000))


def test_a_generator_can_be_passed() -> None:
    default = plait.manual_seed(1).get_state()
    drawn = plait.rand(3, generator=Generator(9))
    assert drawn.tolist() == plait.rand(3, generator=Generator(9)).tolist()
    assert default_generator().get_state() == default


# ---------------------------------------------------------------- operators


@pytest.mark.parametrize("name", RANDOM)
def test_random_operators_are_tagged_and_have_explicit_forms(name: str) -> None:
    op = lookup(name)
    form = op.explicit_random
    assert Tag.NONDETERMINISTIC_SEEDED in op.tags
    assert form is not None and Tag.NONDETERMINISTIC_SEEDED not in form.tags
    names = [a.name for a in op.schema.positional]
    assert [a.name for a in form.schema.positional] == [*names, "seed", "call"]
    assert form.decomposition is not None


@pytest.mark.parametrize(("name", "sample"), calls(RANDOM))
def test_explicit_form_draws_the_same(name: str, sample: SampleInput) -> None:
    op = lookup(name)
    args, kwargs = op.normalize(sample.args, sample.kwargs)
    plait.manual_seed(SEED)
    drawn = op(*args, **kwargs)
    assert op.explicit_random is not None
    again = op.explicit_random(*args, SEED, 0, **kwargs)
    for a, b in zip(_arrays(drawn), _arrays(again), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "sample"), calls([*RANDOM, *EXPLICIT, *SOURCES]))
def test_shape_rule(name: str, sample: SampleInput) -> None:
    compare.check_shape_rule(name, sample)


@pytest.mark.parametrize(
    ("name", "sample"), calls([n for n in RANDOM if n not in ("aten::uniform", "aten::normal")])
)
def test_form_is_torchs(torch: ModuleType, name: str, sample: SampleInput) -> None:
    theirs = compare.torch_call(torch, name, sample)
    ours = lookup(name)(*sample.args, **sample.kwargs)
    pairs = zip(ours, theirs) if isinstance(ours, tuple) else [(ours, theirs)]
    for mine, other in pairs:
        assert str(other.dtype).removeprefix("torch.") == mine.dtype.name.removesuffix("_")
        assert mine.shape == tuple(other.shape) and mine.strides == other.stride()


@pytest.mark.parametrize(
    ("name", "layout"), [(n, i) for n in ("rand_like", "native_dropout") for i in range(4)]
)
def test_elements_are_counted_in_logical_order(name: str, layout: int) -> None:
    x = list(layouts((3, 2, 4)))[layout][1]
    args = (x,) if name == "rand_like" else (x, 0.5, True)
    op = getattr(aten, name).default.explicit_random
    plain = (make(3, 2, 4), *args[1:])
    a, b = op(*args, SEED, 0), op(*plain, SEED, 0)
    if name == "native_dropout":
        a, b = a[1], b[1]
    np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("dtype", [plait.float16, plait.bfloat16])
def test_half_precision_draws_stay_below_one(dtype: Any) -> None:
    u = plait.rand(20_000, dtype=dtype)
    assert u.dtype is dtype
    values = np.asarray(u.to(plait.float32).numpy())
    assert values.max() < 1 and values.min() >= 0 and abs(values.mean() - 0.5) < 0.01
    assert plait.randn(4, dtype=dtype).dtype is dtype


# ---------------------------------------------------------------- dropout and bernoulli


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_drops_and_scales(p: float) -> None:
    x = plait.ones(50_000)
    out, mask = plait.native_dropout(x, p, True)
    kept = mask.numpy()
    assert abs(kept.mean() - (1 - p)) < 0.01
    np.testing.assert_allclose(out.numpy()[kept], 1 / (1 - p) if p < 1 else 0, rtol=1e-6)
    assert not out.numpy()[~kept].any()


def test_dropout_passes_everything_when_not_training() -> None:
    x = make(5).requires_grad_()
    out, mask = plait.native_dropout(x, 0.7, False)
    assert out.tolist() == x.tolist() and mask.numpy().all()
    out.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0] * 5


@pytest.mark.parametrize(("p", "train"), [(0.3, True), (0.0, True), (1.0, True), (0.4, None)])
def test_dropout_gradient_goes_through_the_mask(p: float, train: bool | None) -> None:
    x = make(40).requires_grad_()
    g = make(40, seed=1)
    out, mask = plait.native_dropout(x, p, train)
    out.backward(g)
    scale = 0 if p == 1 else np.float32(1 / (1 - p))
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), g.numpy() * mask.numpy() * scale, rtol=1e-6)


def test_bernoulli_follows_its_probabilities() -> None:
    p = plait.tensor([0.0, 0.2, 0.8, 1.0]).reshape(4, 1).expand(4, 20_000)
    means = plait.bernoulli(p).numpy().mean(1)
    assert means[0] == 0 and means[3] == 1
    np.testing.assert_allclose(means[1:3], [0.2, 0.8], atol=0.02)


def test_random_results_of_tensors_have_zero_gradient() -> None:
    p = make(4, low=0, high=1).requires_grad_()
    plait.bernoulli(p).sum().backward()
    assert p.grad is not None and p.grad.tolist() == [0.0] * 4


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial_follows_its_weights(replacement: bool) -> None:
    plait.manual_seed(0)
    weights = plait.tensor([0.0, 1.0, 3.0, 0.0, 4.0]).expand(20_000, 5)
    drawn = plait.multinomial(weights, 2, replacement).numpy()
    shares = np.bincount(drawn[:, 0], minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0, 1 / 8, 3 / 8, 0, 4 / 8], atol=0.015)
    if not replacement:
        assert (drawn[:, 0] != drawn[:, 1]).all()
        after_last = drawn[drawn[:, 0] == 4, 1]
        np.testing.assert_allclose((after_last == 2).mean(), 3 / 4, atol=0.02)


def test_inplace_draws() -> None:
    plait.manual_seed(2)
    x = plait.zeros(1000)
    assert x.uniform_(2.0, 3.0) is x
    assert x.numpy().min() >= 2 and x.numpy().max() <= 3
    y = plait.zeros(20, 50).t()
    y.normal_(5.0, 0.1)
    assert abs(y.numpy().mean() - 5) < 0.02
    assert x._version == 1
    assert aten.uniform_.default.functional is aten.uniform.default


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: plait.rand(-1), RuntimeError),
        (lambda: plait.rand(2, dtype=plait.int64), MissingKernel),
        (lambda: plait.native_dropout(plait.ones(2), 1.5, True), InvalidArgument),
        (lambda: plait.native_dropout(plait.ones(2, dtype=plait.int64), 0.5, True), MissingKernel),
        (lambda: aten.bernoulli.p(plait.ones(2), -0.1), InvalidArgument),
        (lambda: plait.multinomial(plait.ones(2), 3), InvalidArgument),
        (lambda: plait.multinomial(plait.ones(2), 0), InvalidArgument),
        (lambda: plait.multinomial(plait.ones(2, 2, 2), 1), RuntimeError),
        (lambda: plait.multinomial(plait.ones(2, dtype=plait.int64), 1), MissingKernel),
        (lambda: plait.ones(2).uniform_(2.0, 1.0), InvalidArgument),
        (lambda: lookup("plait::philox_uniform")((2,), 0, 0, dtype=plait.int32), MissingKernel),
    ],
)
def test_errors(call: Any, error: type[Exception]) -> None:
    state = get_rng_state()
    with pytest.raises(error):
        call()
    assert get_rng_state() == state
