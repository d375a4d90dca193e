"""Math functions as vectorisable LLVM IR, in single and double precision.

No branches except for huge arguments of sin, cos and tan; right for NaN, infinities, signed zeros
and subnormals. Written over `Value`, so each formula serves every number of lanes. Never uses
fast-math flags.

Largest error in ulp (tests against mpmath hold these bounds):

| function | f32 | f64 | | function | f32 | f64 | | function | f32 | f64 |
|---|---|---|---|---|---|---|---|---|---|---|
| exp | 2 | 2 | | erf | 3 | 3 | | asin | 4 | 4 |
| exp2 | 2 | 2 | | tanh | 3 | 3 | | acos | 4 | 4 |
| expm1 | 2 | 2 | | sigmoid | 2.5 | 2.5 | | atan | 2.5 | 3 |
| log | 2 | 2 | | sin | 2 | 2 | | atan2 | 3 | 3 |
| log1p | 2 | 2 | | cos | 2 | 2 | | sinh, cosh | 4 | 4 |
| log2 | 2 | 2 | | tan | 3 | 3 | | pow | 1 | 2 |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from plait.backends.llvm.native.mathtables import (
    ERF_F32_LIMIT,
    ERF_F32_P,
    ERF_F32_Q,
    ERF_F64_LIMIT,
    ERF_F64_SMALL,
    ERF_F64_TAIL,
    LOG_F32,
    LOG_F64,
    POW_F64,
    TABLES,
    TWO_OVER_PI_WORDS,
    Table,
)
from plait.backends.llvm.native.vector import Space, Value, horner, paired

__all__ = ["MATH", "call_math"]

INF = float("inf")
NAN = float("nan")
LOG2_E = 1.4426950408889634
PI = 3.141592653589793


def _table(x: Value) -> Table:
    return TABLES[x.dtype]


def _keep_zero(x: Value, y: Value) -> Value:
    """y, but x where x is zero (so that the sign of zero survives)."""
    return x.eq(0.0).where(x, y)


# Exponentials ------------------------------------------------------------------------------------


def _exp_scaled(x: Value, low: Value | None = None) -> Value:
    """exp(x + low) for x inside the table's range.

    Reduces by multiples of 2 ln 2 and multiplies twice by 2**n, so that one shift makes the scale
    and results may be subnormal or infinite.
    """
    t = _table(x)
    shifted = x.fma(LOG2_E / 2, t.magic + t.bias)
    n = shifted - (t.magic + t.bias)
    r = n.fma(-2 * t.round_ln2[1], n.fma(-2 * t.round_ln2[0], x))
    if low is not None:
        r = r + low
    scale = (shifted.bits() << t.mantissa).as_float()
    square = r * r
    return (paired(r, square, t.exp).fma(square, r) + 1.0) * scale * scale


def exp(x: Value) -> Value:
    """e**x."""
    low, high = _table(x).exp_range
    return _exp_scaled(x.at_least(low).at_most(high))


def exp2(x: Value) -> Value:
    """2**x."""
    t = _table(x)
    low, high = (bound * LOG2_E for bound in t.exp_range)
    x = x.at_least(low).at_most(high)
    shifted = x.fma(0.5, t.magic + t.bias)
    r = (shifted - (t.magic + t.bias)).fma(-2.0, x) * t.round_ln2[0]
    scale = (shifted.bits() << t.mantissa).as_float()
    return horner(r, (1.0, 1.0, *t.exp)) * scale * scale


def expm1(x: Value) -> Value:
    """e**x - 1, accurate near zero."""
    return _expm1(x).copysign(x)


def _expm1(x: Value) -> Value:
    """expm1 up to the sign of a zero result."""
    t = _table(x)
    x = x.at_least(t.expm1_low).at_most(t.exp_range[1])
    offset = t.magic + t.bias - 1
    shifted = x.fma(LOG2_E, offset)
    n = shifted - offset
    r = n.fma(-t.round_ln2[1], n.fma(-t.round_ln2[0], x))
    e = (horner(r, t.expm1) * r).fma(r, r)
    half_scale = (shifted.bits() << t.mantissa).as_float()
    y = e.fma(half_scale, half_scale - 0.5)
    return y + y


def sigmoid(x: Value) -> Value:
    """1 / (1 + e**-x), from exp(-|x|) so that both tails are accurate."""
    e = exp(-x.abs())
    return x.lt(0.0).where(e, 1.0) / (e + 1.0)


def tanh(x: Value) -> Value:
    """Hyperbolic tangent: expm1(2|x|) / (expm1(2|x|) + 2)."""
    e = _expm1((x.abs() * 2.0).at_most(2 * _table(x).tanh_limit))
    return (e / (e + 2.0)).copysign(x)


def sinh(x: Value) -> Value:
    """Hyperbolic sine."""
    a = x.abs()
    e = _expm1(a)
    half = exp(a * 0.5)
    y = a.lt(20.0).where((e + e / (e + 1.0)) * 0.5, half * 0.5 * half)
    return y.copysign(x)


def cosh(x: Value) -> Value:
    """Hyperbolic cosine."""
    half = exp(x.abs() * 0.5)
    return half * 0.5 * half + 0.5 / half / half


# Logarithms --------------------------------------------------------------------------------------


def _exponent(x: Value, bias_shift: Value | float = 0.0) -> tuple[Value, Value]:
    """(k, high): x = m * 2**k with m in [split, 2 split); high is k in place in the exponent field.

    x is positive and normal. k is a float, less `bias_shift`.
    """
    t = _table(x)
    offset = t.bias << t.mantissa
    shifted = x.bits() - (t.split - offset)
    biased = shifted.logical_right(t.mantissa)
    high = (biased - t.bias) << t.mantissa
    exponent_one = (t.bias + t.mantissa) << t.mantissa
    k = (biased | exponent_one).as_float() - (bias_shift + (2.0**t.mantissa + t.bias))
    return k, high


def _log_parts(f: Value) -> tuple[Value, Value]:
    """(f, c): log(1 + f) = f + c, for 1 + f in [split, 2 split)."""
    half_square = f * f * 0.5
    if f.dtype == "f32":
        return f, (horner(f, LOG_F32) * f).fma(f * f, -half_square)
    s = f / (f + 2.0)
    z = s * s
    return f, s * (half_square + z * horner(z, LOG_F64)) - half_square


def _log_specials(x: Value, y: Value) -> Value:
    inner = x.lt(INF).where(y, x)
    return x.gt(0.0).where(inner, x.eq(0.0).where(x.space.const(x.dtype, -INF), NAN))


def _normalised(x: Value) -> tuple[Value, Value]:
    """(m, k): m in [split, 2 split), the exponent k as a float; x may be subnormal."""
    t = _table(x)
    small = x.lt(t.tiny)
    scaled = small.where(x * 2.0**t.mantissa, x)
    shift = small.where(x.space.const(x.dtype, float(t.mantissa)), 0.0)
    k, high = _exponent(scaled, shift)
    return (scaled.bits() - high).as_float(), k


def log(x: Value) -> Value:
    """Natural logarithm."""
    t = _table(x)
    m, k = _normalised(x)
    f, c = _log_parts(m - 1.0)
    y = k.fma(t.round_ln2[0], f + k.fma(t.round_ln2[1], c))
    return _log_specials(x, y)


def log2(x: Value) -> Value:
    """Binary logarithm, exact for powers of two."""
    m, k = _normalised(x)
    f, c = _log_parts(m - 1.0)
    low = 2.0355273740931033e-17 if x.dtype == "f64" else 1.925963033500933e-08
    high = x.space.const(x.dtype, LOG2_E if x.dtype == "f64" else 1.44269502162933349609375)
    tail = c.fma(high, f * low)
    return _log_specials(x, f.fma(high, tail) + k)


def log1p(x: Value) -> Value:
    """log(1 + x), accurate near zero: the mantissa of 1 + x is found from x itself."""
    t = _table(x)
    u = x + 1.0
    k, high = _exponent(u)
    inverse_scale = (x.space.const(high.dtype, t.bias << t.mantissa) - high).as_float()
    large = x.gt(2.0**60)
    exact = x.fma(inverse_scale, inverse_scale - 1.0)
    f, c = _log_parts(large.where((u.bits() - high).as_float() - 1.0, exact))
    y = k.fma(t.round_ln2[0], f + k.fma(t.round_ln2[1], c))
    return _keep_zero(x, _log_specials(u, y))


# Error function ----------------------------------------------------------------------------------


def erf(x: Value) -> Value:
    """Error function."""
    magnitude = _erf_f32(x.abs()) if x.dtype == "f32" else _erf_f64(x.abs())
    return magnitude.copysign(x)


def _erf_f32(a: Value) -> Value:
    a = a.at_most(ERF_F32_LIMIT)
    z = a * a
    return (a * horner(z, ERF_F32_P) / horner(z, ERF_F32_Q)).at_most(1.0)


def _erf_f64(a: Value) -> Value:
    a = a.at_most(ERF_F64_LIMIT)
    z = a * a
    tail = _exp_scaled(-z) * horner((a - 2.5) / (a + 2.5), ERF_F64_TAIL)
    return a.lt(1.0).where(a * horner(z, ERF_F64_SMALL), 1.0 - tail)


# Circular functions ------------------------------------------------------------------------------


def _reduced(x: Value) -> tuple[Value, Value]:
    """(r, q): x = r + q pi/2 with |r| <= pi/4, for |x| up to the table's limit; q as integer
    bits.
    """
    t = _table(x)
    shifted = x.fma(2.0 / PI, t.magic)
    n = shifted - t.magic
    first, second, third = t.pi_half
    return n.fma(-third, n.fma(-second, n.fma(-first, x))), shifted.bits()


def _sin_cos(r: Value) -> tuple[Value, Value]:
    """Sine and cosine of |r| <= pi/4."""
    t = _table(r)
    z = r * r
    return (r * z).fma(horner(z, t.sin), r), (z * z).fma(horner(z, t.cos), z.fma(-0.5, 1.0))


def _quadrant(sine: Value, cosine: Value, q: Value) -> Value:
    """sin(r + q pi/2) from sin(r) and cos(r)."""
    y = (q & 1).eq(0).where(sine, cosine)
    bits = 64 if y.dtype == "f64" else 32
    return (y.bits() ^ ((q & 2) << (bits - 2))).as_float()


def sin(x: Value) -> Value:
    """Sine."""
    r, q = _reduced(x)
    y = _quadrant(*_sin_cos(r), q)
    return _keep_zero(x, _where_huge(x, y, 0))


def cos(x: Value) -> Value:
    """Cosine."""
    r, q = _reduced(x)
    return _where_huge(x, _quadrant(*_sin_cos(r), q + 1), 1)


def tan(x: Value) -> Value:
    """Tangent."""
    r, q = _reduced(x)
    sine, cosine = _sin_cos(r)
    even = (q & 1).eq(0)
    y = even.where(sine, -cosine) / even.where(cosine, sine)
    return _keep_zero(x, _where_huge(x, y, 2))


def _where_huge(x: Value, y: Value, which: int) -> Value:
    """y, with the lanes of huge x computed again one by one (a branch seldom taken)."""
    builder = x.space.builder
    huge = (x.abs().gt(_table(x).trig_limit) & x.abs().lt(INF)).any_lane()
    cells = [_cell(builder, value.raw.type) for value in (x, y)]
    before = builder.block
    with builder.if_then(huge, likely=False):
        for cell, value in zip(cells, (x, y)):
            builder.store(value.raw, cell)
        _each_huge_lane(x, cells, which)
        result = builder.load(cells[1], typ=y.raw.type)
        inside = builder.block
    merged = builder.phi(y.raw.type)
    merged.add_incoming(y.raw, before)
    merged.add_incoming(result, inside)
    return Value(x.space, merged, x.dtype)


def _cell(builder: Any, kind: Any) -> Any:
    """Room on the stack for one value."""
    with builder.goto_entry_block():
        cell = builder.alloca(kind)
    cell.type = ir.PointerType()  # llvmlite would keep the type of what it points to
    return cell


def _each_huge_lane(x: Value, cells: list[Any], which: int) -> None:
    """for lane: if x[lane] is huge and finite, y[lane] = function(x[lane])."""
    builder, scalar, word = x.space.builder, x.space.with_lanes(1), ir.IntType(64)
    element = scalar.type(x.dtype)
    before, loop = builder.block, builder.append_basic_block("lane")
    builder.branch(loop)
    builder.position_at_end(loop)
    lane = builder.phi(word)
    lane.add_incoming(word(0), before)
    places = [builder.gep(cell, [lane], source_etype=element) for cell in cells]
    one = scalar.value(builder.load(places[0], typ=element), x.dtype)
    with builder.if_then((one.abs().gt(_table(x).trig_limit) & one.abs().lt(INF)).raw):
        args = [one.cast_float("f64").raw, word(which)]
        exact = scalar.value(builder.call(_huge_function(x.space), args), "f64")
        builder.store(exact.cast_float(x.dtype).raw, places[1])
    following = builder.add(lane, word(1))
    lane.add_incoming(following, builder.block)
    after = builder.append_basic_block("lanes_done")
    more = builder.icmp_unsigned("<", following, word(x.space.lanes))
    builder.cbranch(more, loop, after)
    builder.position_at_end(after)


def _huge_function(space: Space) -> Any:
    """double f(double x, i64 which): sin, cos or tan by Payne and Hanek's reduction, built once a
    module.
    """
    module = space.module
    function = module.globals.get("plait_trig_huge")
    if function is None:
        double, word = ir.DoubleType(), ir.IntType(64)
        function = ir.Function(module, ir.FunctionType(double, [double, word]), "plait_trig_huge")
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        inner = Space(builder, 1)
        which = inner.value(function.args[1], "i64")
        r, q = _payne_hanek(inner.value(function.args[0], "f64"))
        sine, cosine = _sin_cos(r)
        even = (q & 1).eq(0)
        tangent = even.where(sine, -cosine) / even.where(cosine, sine)
        builder.ret(which.eq(2).where(tangent, _quadrant(sine, cosine, q + which)).raw)
    return function


def _payne_hanek(x: Value) -> tuple[Value, Value]:
    """(r, q) for any finite |x| >= 1: multiplies the 53-bit mantissa by the 192 bits of 2/pi that
    matter.
    """
    builder = x.space.builder
    bits = x.bits()
    exponent = (bits.logical_right(52) & 0x7FF) - (1023 + 52)
    mantissa = (bits & ((1 << 52) - 1)) | (1 << 52)
    # The window starts `exponent - 2` bits after the binary point: whole turns of 4 quadrants
    # drop out.
    start = exponent.gt(2).where(exponent - 2, 0)
    window = _window(x.space, start)
    wide = ir.IntType(256)
    product = builder.mul(window, builder.zext(mantissa.raw, wide))
    # Units of the product: 2**(exponent - start - 192) quadrants; bring it to 2**-190.
    fixed = builder.lshr(product, builder.zext(((start - exponent) + 2).raw, wide))
    top = x.space.value(builder.trunc(builder.lshr(fixed, wide(128)), ir.IntType(64)), "i64")
    q = (top + (1 << 61)).logical_right(62) & 3
    low = builder.trunc(builder.lshr(fixed, wide(64)), ir.IntType(64))
    return _fraction(x, top, low, q)


def _window(space: Space, start: Value) -> Any:
    """192 bits of 2/pi from bit `start` after the binary point, as an i256."""
    builder = space.builder
    table = _two_over_pi(space.module)
    word, wide = ir.IntType(64), ir.IntType(256)
    first = start.logical_right(6).raw
    total: Any = wide(0)
    for k in range(4):
        index = builder.add(first, word(k))
        address = builder.gep(table, [word(0), index], inbounds=True)
        part = builder.zext(builder.load(address), wide)
        total = builder.or_(total, builder.shl(part, wide(64 * (3 - k))))
    moved = builder.shl(total, builder.zext((start & 63).raw, wide))
    return builder.lshr(moved, wide(64))


def _fraction(x: Value, top: Value, low: Any, q: Value) -> tuple[Value, Value]:
    """(r, q) from the 64 bits `top` (quadrant in the two highest) and the 64 below them."""
    builder, space = x.space.builder, x.space
    wide = ir.IntType(128)
    joined = builder.or_(
        builder.shl(builder.zext(top.raw, wide), wide(64)), builder.zext(low, wide)
    )
    signed = builder.shl(
        joined, wide(2)
    )  # fraction of a quadrant; its top bit says "above one half"
    negative = builder.icmp_signed("<", signed, wide(0))
    magnitude = builder.select(negative, builder.neg(signed), signed)
    zeros = space.intrinsic("llvm.ctlz", wide, [magnitude, ir.IntType(1)(0)], [wide])
    leading = builder.trunc(builder.lshr(builder.shl(magnitude, zeros), wide(64)), ir.IntType(64))
    count = space.value(builder.trunc(zeros, ir.IntType(64)), "i64")
    scale = ((space.const("i64", 1023 - 64) - count) << 52).as_float()
    fraction = space.value(builder.uitofp(leading, ir.DoubleType()), "f64") * scale
    r = fraction * (PI / 2)
    flip = space.value(negative, "i1") ^ x.lt(0.0)
    negated = x.lt(0.0).where(-q, q)
    return flip.where(-r, r), negated


def _two_over_pi(module: Any) -> Any:
    found = module.globals.get("plait_two_over_pi")
    if found is None:
        kind = ir.ArrayType(ir.IntType(64), len(TWO_OVER_PI_WORDS))
        found = ir.GlobalVariable(module, kind, "plait_two_over_pi")
        found.linkage, found.global_constant = "internal", True
        found.initializer = ir.Constant(kind, list(TWO_OVER_PI_WORDS))
    return found


def _atan_quotient(top: Value, bottom: Value) -> Value:
    """atan(top / bottom) for top, bottom >= 0, not both zero or infinite."""
    large, middle = top.gt(bottom * 2.414213562373095), top.gt(bottom * 0.41421356237309503)
    above = large.where(-bottom, middle.where(top - bottom, top))
    below = large.where(top, middle.where(top + bottom, bottom))
    r = above / below
    z = r * r
    base = large.where(
        top.space.const(top.dtype, PI / 2), middle.where(z.space.const(z.dtype, PI / 4), 0.0)
    )
    return base + (r * z).fma(horner(z, _table(top).atan), r)


def atan(x: Value) -> Value:
    """Arc tangent."""
    a = x.abs()
    one = x.space.const(x.dtype, 1.0)
    return (
        a.at_most(2.0**100).is_nan().where(x, _atan_quotient(a.at_most(2.0**100), one)).copysign(x)
    )


def asin(x: Value) -> Value:
    """Arc sine."""
    a = x.abs()
    return _keep_zero(x, _atan_quotient(a, ((1.0 - a) * (a + 1.0)).sqrt()).copysign(x))


def acos(x: Value) -> Value:
    """Arc cosine."""
    return _atan_quotient((1.0 - x).sqrt(), (x + 1.0).sqrt()) * 2.0


def atan2(y: Value, x: Value) -> Value:
    """Angle of the point (x, y)."""
    ay, ax = y.abs(), x.abs()
    both_zero = (ay.eq(0.0)) & (ax.eq(0.0))
    both_infinite = ay.eq(INF) & ax.eq(INF)
    angle = _atan_quotient(ay, both_zero.where(ay.space.const(y.dtype, 1.0), ax))
    angle = both_infinite.where(angle.space.const(y.dtype, PI / 4), angle)
    one = x.space.const(x.dtype, 1.0)
    angle = one.copysign(x).lt(0.0).where(PI - angle, angle).copysign(y)
    return (y.is_nan() | x.is_nan()).where(x.space.const(x.dtype, NAN), angle)


# Powers ------------------------------------------------------------------------------------------


def pow_(x: Value, y: Value) -> Value:
    """x**y with the special cases of C."""
    if x.dtype == "f32":
        wide = _exp_clamped(log(x.abs().cast_float("f64")) * y.cast_float("f64"), None)
        magnitude = wide.cast_float("f32")
    else:
        magnitude = _pow_magnitude(x.abs(), y)
    whole = y.rint().eq(y)
    half = y * 0.5
    odd = whole & half.rint().ne(half)
    negative = x.space.const(x.dtype, 1.0).copysign(x).lt(0.0)
    result = (negative & odd).where(-magnitude, magnitude)
    invalid = x.lt(0.0) & x.gt(-INF) & ~whole
    result = invalid.where(x.space.const(x.dtype, NAN), result)
    one = y.eq(0.0) | x.eq(1.0) | (x.eq(-1.0) & y.abs().eq(INF))
    return one.where(x.space.const(x.dtype, 1.0), result)


def _exp_clamped(high: Value, low: Value | None) -> Value:
    bounds = _table(high).exp_range
    return _exp_scaled(high.at_least(bounds[0]).at_most(bounds[1]), low)


def _pow_magnitude(x: Value, y: Value) -> Value:
    """exp(y log x) for x >= 0 in double precision, with the logarithm in two parts."""
    high, low = _log_double(x)
    product = y * high
    error = y.fma(high, -product) + y * low
    special = ~(x.gt(0.0) & x.lt(INF)) | ~product.abs().lt(1000.0)
    product = special.where(y * log(x), product)
    return _exp_clamped(product, special.where(x.space.const("f64", 0.0), error))


def _log_double(x: Value) -> tuple[Value, Value]:
    """log(x) as an unevaluated sum, for positive finite x."""
    m, k = _normalised(x)
    f = m - 1.0
    below = m + 1.0
    below_low = m - (below - 1.0)
    inverse = 1.0 / below
    s = f * inverse
    s_low = (s.fma(-below, f) - s * below_low) * inverse
    z = s * s
    # s**3 * (2/3 + z R): the leading coefficient needs its own low part.
    tail = z * horner(z, POW_F64)
    c = tail + 2.0 / 3
    c_low = tail - (c - 2.0 / 3) + 3.700743415417188e-17
    z_low = s.fma(s, -z) + s * s_low * 2.0
    zc = z * c
    zc_low = z.fma(c, -zc) + z_low * c + z * c_low
    cube = s * zc
    cube_low = s.fma(zc, -cube) + s * zc_low + s_low * zc
    ln2, ln2_low = _table(x).round_ln2
    whole = k * ln2
    whole_low = k.fma(ln2, -whole) + k * ln2_low
    high, rest = _two_sum(whole, s * 2.0)
    high, more = _two_sum(high, cube)
    return high, rest + more + (cube_low + s_low * 2.0 + whole_low)


def _two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


MATH: dict[str, Callable[..., Value]] = {
    "exp": exp, "exp2": exp2, "expm1": expm1, "log": log, "log1p": log1p, "log2": log2, "erf": erf,
    "tanh": tanh, "sigmoid": sigmoid, "sin": sin, "cos": cos, "tan": tan, "asin": asin,
    "acos": acos, "atan": atan, "atan2": atan2, "sinh": sinh, "cosh": cosh, "pow": pow_,
}  # fmt: skip


def call_math(name: str, *args: Value, inline: bool = True) -> Value:
    """Apply a math function by name; each is one internal function per module and type."""
    space, dtype = args[0].space, args[0].dtype
    kind = space.type(dtype)
    full = f"plait_{name}_{dtype}_{space.lanes}"
    function = space.module.globals.get(full)
    if function is None:
        function = _define(space, full, kind, name, dtype, len(args))
    attribute = "alwaysinline" if inline else "noinline"
    raw = space.builder.call(function, [arg.raw for arg in args], attrs=(attribute,))
    return Value(space, raw, dtype)


def _define(space: Space, full: str, kind: Any, name: str, dtype: str, count: int) -> Any:
    function = ir.Function(space.module, ir.FunctionType(kind, [kind] * count), full)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block())
    inner = Space(builder, space.lanes)
    builder.ret(MATH[name](*(inner.value(arg, dtype) for arg in function.args)).raw)
    return function
