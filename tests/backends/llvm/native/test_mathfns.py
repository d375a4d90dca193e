"""Math functions against mpmath, to the bounds in ulp that the module states; special values
against C.
"""

import ctypes
import functools
import math

import mpmath
import numpy as np
import pytest
from llvmlite import ir

from plait.backends.llvm.native import jit, mathfns
from plait.backends.llvm.native.vector import Space, element_type

LANES = 8
NUMPY = {"f32": np.float32, "f64": np.float64}
TWO_ARGUMENTS = {"pow", "atan2"}

# Largest error in ulp allowed: (single, double).
BOUNDS = {
    "exp": (2, 2), "exp2": (2, 2), "expm1": (2, 2), "log": (2, 2), "log1p": (2, 2), "log2": (2, 2),
    "erf": (3, 3), "tanh": (3, 3), "sigmoid": (2.5, 2.5), "sin": (2, 2), "cos": (2, 2),
    "tan": (3, 3), "asin": (4, 4), "acos": (4, 4), "atan": (2.5, 3), "atan2": (3, 3),
    "sinh": (4, 4), "cosh": (4, 4), "pow": (1, 2),
}  # fmt: skip

EXACT = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "pow": lambda x, y: mpmath.power(x, y),
}


def _loop(module, name, dtype):
    count = 2 if name in TWO_ARGUMENTS else 1
    word, pointer = ir.IntType(64), ir.PointerType()
    kind = ir.FunctionType(ir.VoidType(), [pointer] * (count + 1) + [word])
    function = ir.Function(module, kind, f"{name}_{dtype}")
    entry, body, done = (function.append_basic_block() for _ in range(3))
    builder = ir.IRBuilder(entry)
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(word)
    index.add_incoming(word(0), entry)
    space = Space(builder, LANES)
    element = element_type(dtype)
    args = []
    for source in function.args[:count]:
        address = builder.gep(source, [index], source_etype=element)
        args.append(space.value(builder.load(address, align=1, typ=space.type(dtype)), dtype))
    result = mathfns.call_math(name, *args)
    address = builder.gep(function.args[count], [index], source_etype=element)
    builder.store(result.raw, address, align=1)
    following = builder.add(index, word(LANES))
    index.add_incoming(following, builder.block)
    more = builder.icmp_unsigned("<", following, function.args[-1])
    builder.cbranch(more, body, done)
    builder.position_at_end(done)
    builder.ret_void()


@functools.cache
def _native(name):
    module = jit.new_module(f"math_{name}")
    for dtype in NUMPY:
        _loop(module, name, dtype)
    image = jit.compile_object(module, level=1)
    return jit.link_objects([image], [f"{name}_{dtype}" for dtype in NUMPY])


def apply(name, dtype, *arrays):
    """The native function over arrays of any length."""
    size = len(arrays[0])
    padded = [
        np.ascontiguousarray(np.pad(a.astype(NUMPY[dtype]), (0, -size % LANES))) for a in arrays
    ]
    out = np.empty_like(padded[0])
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(arrays) + 1), ctypes.c_int64)
    function = kind(_native(name)[f"{name}_{dtype}"])
    function(*[a.ctypes.data for a in padded], out.ctypes.data, len(out))
    return out[:size]


def _points(name, dtype, count):
    random = np.random.default_rng(5)
    wide = random.uniform(-1, 1, count) * np.exp(random.uniform(-30, 5, count))
    near = random.uniform(-1.2, 1.2, count) * (8 if name != "acos" else 1)
    points = np.concatenate([wide, near])
    if name in ("asin", "acos"):
        points = random.uniform(-1, 1, 2 * count)
    if name in ("log", "log2"):
        exponent = 85 if dtype == "f32" else 700
        points = np.concatenate([np.exp(random.uniform(-exponent, exponent, count)), 1 + near / 20])
    if name == "log1p":
        points = np.concatenate([points[points > -1], np.exp(random.uniform(0, 80, count))])
    if name in ("sin", "cos", "tan"):
        points = np.concatenate([points, random.uniform(-1, 1, count) * 9e4])
    return points.astype(NUMPY[dtype])


def _second(name, count):
    random = np.random.default_rng(6)
    return random.uniform(-9, 9, count)


def ulp_error(got, args, name, dtype):
    """Largest distance from the exact value, in units of the last place of the result type."""
    exact = EXACT.get(name) or getattr(mpmath, name)
    worst = 0.0
    limits = np.finfo(NUMPY[dtype])
    for index, value in enumerate(got):
        true = exact(*(mpmath.mpf(float(a[index])) for a in args))
        if abs(true) > limits.max:
            assert math.isinf(value)
            continue
        scale = max(float(abs(true)), float(limits.tiny))
        spacing = 2.0 ** (math.frexp(scale)[1] - 1 - limits.nmant)
        worst = max(worst, float(abs(mpmath.mpf(float(value)) - true) / spacing))
    return worst


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", sorted(mathfns.MATH))
def test_error_is_within_the_stated_bound(name, dtype):
    points = _points(name, dtype, 700)
    args = [points]
    if name == "pow":
        args = [
            np.abs(points) + NUMPY[dtype](1e-3),
            _second(name, len(points)).astype(NUMPY[dtype]),
        ]
    if name == "atan2":
        args = [points, _second(name, len(points)).astype(NUMPY[dtype])]
    with mpmath.workdps(60):
        worst = ulp_error(apply(name, dtype, *args), args, name, dtype)
    bound = BOUNDS[name][dtype == "f64"]
    assert worst <= bound, f"{name} {dtype}: {worst:.2f} ulp, stated {bound}"


SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    np.inf,
    -np.inf,
    np.nan,
    1e-40,
    -1e-40,
    1e-310,
    3e38,
    -3e38,
    0.5,
    2.0,
]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", sorted(set(mathfns.MATH) - TWO_ARGUMENTS - {"erf", "sigmoid"}))
def test_special_values(name, dtype):
    points = np.array(SPECIAL).astype(NUMPY[dtype])
    numpy_name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
    with np.errstate(all="ignore"):
        expected = getattr(np, numpy_name)(points)
    got = apply(name, dtype, points)
    smallest = np.finfo(NUMPY[dtype]).smallest_subnormal
    rtol = 1e-6 if dtype == "f32" else 1e-14
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=float(smallest))
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_special_values_of_erf_and_sigmoid(dtype):
    points = np.array(SPECIAL).astype(NUMPY[dtype])
    rtol = 1e-6 if dtype == "f32" else 1e-14
    erf = np.array([math.erf(p) for p in points.astype(float)]).astype(NUMPY[dtype])
    np.testing.assert_allclose(apply("erf", dtype, points), erf, rtol=rtol)
    np.testing.assert_array_equal(np.signbit(apply("erf", dtype, points)), np.signbit(erf))
    with np.errstate(all="ignore"):
        sigmoid = 1 / (1 + np.exp(-points.astype(float)))
    np.testing.assert_allclose(apply("sigmoid", dtype, points), sigmoid, rtol=rtol, atol=1e-38)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_special_values_of_two_arguments(dtype):
    values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        2.5,
        1e30,
    ]
    x, y = (a.ravel().astype(NUMPY[dtype]) for a in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        for name, reference in (("pow", np.power), ("atan2", np.arctan2)):
            got, expected = apply(name, dtype, x, y), reference(x, y)
            np.testing.assert_allclose(got, expected, rtol=1e-6 if dtype == "f32" else 1e-14)
            np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(expected[got == 0]))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_huge_arguments_are_reduced_exactly(name, dtype):
    random = np.random.default_rng(7)
    top = 88 if dtype == "f32" else 709
    points = (np.exp(random.uniform(11, top, 400)) * random.choice([-1, 1], 400)).astype(
        NUMPY[dtype]
    )
    if dtype == "f64":
        points[:3] = [6381956970095103.0 * 2.0**797, 2.0**1023, -(2.0**60)]
    with mpmath.workdps(400):
        worst = ulp_error(apply(name, dtype, points), [points], name, dtype)
    assert worst <= 3


def test_large_powers_keep_their_digits():
    random = np.random.default_rng(8)
    x = np.exp(random.uniform(-300, 300, 500))
    y = random.uniform(-2, 2, 500)
    with mpmath.workdps(60):
        assert ulp_error(apply("pow", "f64", x, y), [x, y], "pow", "f64") <= 2
    x = random.uniform(0.9, 1.1, 500)
    y = random.uniform(-6000, 6000, 500)
    with mpmath.workdps(60):
        assert ulp_error(apply("pow", "f64", x, y), [x, y], "pow", "f64") <= 2
