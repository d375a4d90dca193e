"""Functions of complex numbers over pairs of terms, with NumPy's care for overflow and zeros."""

from __future__ import annotations

import math
from typing import NamedTuple

from plait.backends.llvm.loop.builder import binary, literal, select, unary
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.pointwise import add, div, like, log, maximum, minimum, mul, sub

__all__ = ["FUNCTIONS", "Pair", "absolute", "angle", "product", "quotient", "power"]


class Pair(NamedTuple):
    """A complex number: two terms of one type."""

    re: Term
    im: Term


def one(x: Term) -> Term:
    """1 of the type of `x`."""
    return like(x, 1.0)


def zero(x: Term) -> Term:
    """0 of the type of `x`."""
    return like(x, 0.0)


def neg(x: Term) -> Term:
    """-x."""
    return unary("neg", x)


def is_zero(x: Term) -> Term:
    """x == 0."""
    return binary("eq", x, zero(x))


def size(x: Term) -> Term:
    """|x| of a real number."""
    return unary("abs", x)


def chosen(condition: Term, a: Pair, b: Pair) -> Pair:
    """a where the condition holds, else b."""
    return Pair(select(condition, a.re, b.re), select(condition, a.im, b.im))


def hypot(a: Term, b: Term) -> Term:
    """sqrt(a*a + b*b) without overflow; infinite where either is."""
    a, b = size(a), size(b)
    large, small = maximum(a, b), minimum(a, b)
    ratio = div(small, select(is_zero(large), one(a), large))
    length = mul(large, unary("sqrt", add(one(a), mul(ratio, ratio))))
    infinite = binary("or", unary("isinf", a), unary("isinf", b))
    return select(infinite, like(a, math.inf), length)


def absolute(z: Pair) -> Term:
    """|z|."""
    return hypot(z.re, z.im)


def angle(z: Pair) -> Term:
    """The angle in (-pi, pi]."""
    return binary("atan2", z.im, z.re)


def product(a: Pair, b: Pair) -> Pair:
    """a * b."""
    return Pair(
        sub(mul(a.re, b.re), mul(a.im, b.im)),
        add(mul(a.re, b.im), mul(a.im, b.re)),
    )


def quotient(a: Pair, b: Pair) -> Pair:
    """a / b by Smith's rule: the larger part of b is divided out first."""
    wide = binary("ge", size(b.re), size(b.im))
    p, q = select(wide, b.re, b.im), select(wide, b.im, b.re)
    x, y = select(wide, a.re, a.im), select(wide, a.im, a.re)
    nothing = is_zero(p)
    ratio = select(nothing, zero(p), div(q, select(nothing, one(p), p)))
    scale = div(one(p), add(select(nothing, size(p), p), mul(q, ratio)))
    across = mul(sub(y, mul(x, ratio)), scale)
    return Pair(mul(add(x, mul(y, ratio)), scale), select(wide, across, neg(across)))


def reciprocal(z: Pair) -> Pair:
    """1 / z; NaN of 0."""
    none = binary("and", is_zero(z.re), is_zero(z.im))
    found = quotient(Pair(one(z.re), zero(z.re)), z)
    return chosen(none, Pair(like(z.re, math.nan), like(z.re, math.nan)), found)


def exponential(z: Pair) -> Pair:
    """exp; of -infinity zero, whatever the angle."""
    e = unary("exp", z.re)
    flat = binary("or", is_zero(z.im), is_zero(e))
    turned = Pair(mul(e, unary("cos", z.im)), mul(e, unary("sin", z.im)))
    return chosen(flat, Pair(e, select(is_zero(z.im), z.im, zero(e))), turned)


def exponential_less_one(z: Pair) -> Pair:
    """exp(z) - 1, exact near 0."""
    half = unary("sin", mul(z.im, like(z.im, 0.5)))
    grown = mul(unary("expm1", z.re), unary("cos", z.im))
    re = sub(grown, mul(like(half, 2.0), mul(half, half)))
    return Pair(re, mul(unary("exp", z.re), unary("sin", z.im)))


def logarithm(z: Pair) -> Pair:
    """log, the angle in (-pi, pi]."""
    return Pair(log(absolute(z)), angle(z))


def logarithm_of_one_more(z: Pair) -> Pair:
    """log(1 + z)."""
    return logarithm(Pair(add(z.re, one(z.re)), z.im))


def scaled(z: Pair, factor: float) -> Pair:
    """z by a number."""
    return Pair(mul(z.re, like(z.re, factor)), mul(z.im, like(z.im, factor)))


def root(z: Pair) -> Pair:
    """sqrt, with a real part that is not negative; the smaller part from the larger one."""
    half = like(z.re, 0.5)
    t = unary("sqrt", add(mul(size(z.re), half), mul(absolute(z), half)))
    other = div(size(z.im), mul(like(t, 2.0), select(is_zero(t), one(t), t)))
    right = binary("ge", z.re, zero(z.re))
    found = Pair(select(right, t, other), binary("copysign", select(right, other, t), z.im))
    return chosen(is_zero(t), Pair(zero(t), z.im), found)


def sine(z: Pair) -> Pair:
    """sin."""
    return Pair(
        mul(unary("sin", z.re), unary("cosh", z.im)), mul(unary("cos", z.re), unary("sinh", z.im))
    )


def cosine(z: Pair) -> Pair:
    """cos."""
    return Pair(
        mul(unary("cos", z.re), unary("cosh", z.im)),
        neg(mul(unary("sin", z.re), unary("sinh", z.im))),
    )


def hyperbolic_sine(z: Pair) -> Pair:
    """sinh."""
    return Pair(
        mul(unary("sinh", z.re), unary("cos", z.im)), mul(unary("cosh", z.re), unary("sin", z.im))
    )


def hyperbolic_cosine(z: Pair) -> Pair:
    """cosh."""
    return Pair(
        mul(unary("cosh", z.re), unary("cos", z.im)), mul(unary("sinh", z.re), unary("sin", z.im))
    )


def hyperbolic_tangent(z: Pair) -> Pair:
    """tanh by Kahan's formula; far from the imaginary axis by its limit."""
    limit = like(z.re, 11.0 if z.re.dtype == "f32" else 22.0)
    near = minimum(maximum(z.re, neg(limit)), limit)
    t, s = unary("tan", z.im), unary("sinh", near)
    beta, squared = add(one(t), mul(t, t)), mul(s, s)
    rho = unary("sqrt", add(one(t), squared))
    below = add(one(t), mul(beta, squared))
    inside = Pair(div(mul(mul(beta, rho), s), below), div(t, below))
    decay = unary("exp", mul(like(t, -2.0), size(z.re)))
    turn = mul(like(t, 4.0), mul(unary("sin", z.im), unary("cos", z.im)))
    outside = Pair(binary("copysign", one(t), z.re), mul(turn, decay))
    return chosen(binary("gt", size(z.re), limit), outside, inside)


def tangent(z: Pair) -> Pair:
    """tan(z) = -i tanh(i z)."""
    turned = hyperbolic_tangent(Pair(neg(z.im), z.re))
    return Pair(turned.im, neg(turned.re))


def sigmoid(z: Pair) -> Pair:
    """1 / (1 + exp(-z))."""
    e = exponential(Pair(neg(z.re), neg(z.im)))
    return reciprocal(Pair(add(one(e.re), e.re), e.im))


def direction(z: Pair) -> Pair:
    """z / |z|, or 0."""
    length = absolute(z)
    nothing = is_zero(length)
    below = select(nothing, one(length), length)
    return chosen(
        nothing, Pair(zero(length), zero(length)), Pair(div(z.re, below), div(z.im, below))
    )


def power(z: Pair, w: Pair) -> Pair:
    """exp(w * log(z)); of 0 it is 0 where the real part of w is positive, and 1 for 0."""
    found = exponential(product(w, logarithm(z)))
    none = binary("and", is_zero(z.re), is_zero(z.im))
    unit = binary("and", is_zero(w.re), is_zero(w.im))
    positive = binary("gt", w.re, zero(w.re))
    at_zero = Pair(
        select(unit, one(z.re), select(positive, zero(z.re), like(z.re, math.nan))),
        select(binary("or", unit, positive), zero(z.re), like(z.re, math.nan)),
    )
    return chosen(none, at_zero, found)


def repeated(z: Pair, times: int) -> Pair:
    """z to a whole power that is not negative."""
    found: Pair | None = None
    while times:
        if times & 1:
            found = z if found is None else product(found, z)
        z, times = product(z, z), times >> 1
    return Pair(one(z.re), zero(z.re)) if found is None else found


def to_number(z: Pair, exponent: complex) -> Pair:
    """z ** number."""
    number = exponent.real
    if exponent.imag == 0:
        if number in (0.5, -0.5):
            return root(z) if number > 0 else reciprocal(root(z))
        if number == int(number) and abs(number) < 100:
            whole = repeated(z, abs(int(number)))
            return whole if number >= 0 else reciprocal(whole)
    parts = (literal(part, z.re.dtype) for part in (exponent.real, exponent.imag))
    return power(z, Pair(*parts))


FUNCTIONS = {
    "exp": exponential, "expm1": exponential_less_one, "log": logarithm,
    "log1p": logarithm_of_one_more, "sqrt": root, "rsqrt": lambda z: reciprocal(root(z)),
    "reciprocal": reciprocal, "sin": sine, "cos": cosine, "tan": tangent,
    "sinh": hyperbolic_sine, "cosh": hyperbolic_cosine, "tanh": hyperbolic_tangent,
    "sigmoid": sigmoid, "silu": lambda z: product(z, sigmoid(z)), "sgn": direction,
    "square": lambda z: product(z, z),
    "exp2": lambda z: exponential(scaled(z, math.log(2))),
    "log2": lambda z: scaled(logarithm(z), 1 / math.log(2)),
    "log10": lambda z: scaled(logarithm(z), 1 / math.log(10)),
}  # fmt: skip
