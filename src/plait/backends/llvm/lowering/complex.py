"""Lowering of calls with complex tensors: to rules over their real and imaginary parts.

What is linear in the parts is the rule for real tensors, once for each part. The rest is arithmetic
on pairs of terms, or real products put together. Complex operands arrive here as `Complex`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plait.backends.llvm.loop.builder import binary, cast, literal, select, unary
from plait.backends.llvm.loop.terms import Term
from plait.backends.llvm.lowering.complexmath import (
    FUNCTIONS,
    Pair,
    absolute,
    angle,
    product,
    quotient,
    to_number,
)
from plait.backends.llvm.lowering.complexmath import power as pair_power
from plait.backends.llvm.lowering.context import (
    RULES,
    Context,
    Rule,
    Unsupported,
    operand_term,
)
from plait.backends.llvm.lowering.matmul import gemm
from plait.backends.llvm.lowering.pairs import (
    Complex,
    PartContext,
    is_complex,
    pair_in_memory,
    part_of,
    part_type,
)
from plait.backends.llvm.lowering.pointwise import add, mul, nonzero, sub
from plait.backends.llvm.lowering.reduction import finish, reduce_dims, variance
from plait.backends.llvm.lowering.stage import DEAR, Index, Reader, Stage
from plait.backends.llvm.lowering.view import put
from plait.ir.graph import Node
from plait.symbolic.expr import Expr, as_int, expr_of
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta
from plait.tensor.promotion import NUMBER, result_type_of, scalar_dtype

__all__ = ["COMPLEX_RULES"]

COMPLEX_RULES: dict[str, Rule] = {}


def lowers_complex(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators ("aten::sum": all overloads) with complex operands."""

    def register(rule: Rule) -> Rule:
        for name in names:
            COMPLEX_RULES[name] = rule
        return rule

    return register


# ---------------------------------------------------------------- once for each part

# Which arguments are values, so have parts; others (indices, masks, sizes) are passed as they are.
# fmt: off
BY_PARTS: dict[tuple[int, ...], str] = {
    (0,):
        "alias detach lift_fresh view reshape _unsafe_view flatten unflatten view_as expand "
        "_reshape_alias expand_as broadcast_to permute transpose t mT unsqueeze squeeze select "
        "slice narrow "
        "diagonal as_strided split split_with_sizes chunk tensor_split unbind flip neg clone "
        "contiguous positive sum mean cumsum index_select gather index cat stack tril triu "
        "embedding scalar_tensor zeros zeros_like new_zeros empty empty_like new_empty zero "
        "empty_strided new_empty_strided embedding_dense_backward",
    (0, 1): "full full_like fill slice_scatter select_scatter diagonal_scatter as_strided_scatter "
            "copy",
    (0, 2): "new_full masked_fill constant_pad_nd",
    (1, 2): "where",
    (0, 3): "scatter scatter_add index_add",
}
# fmt: on


def by_parts(name: str, values: Sequence[int]) -> Rule:
    """The rule for real tensors, applied to the real and to the imaginary parts."""

    def rule(cx: Context, *args: Any, **kwargs: Any) -> Any:
        found = []
        for number in (0, 1):
            part = PartContext(cx.node, number)
            given = [part_of(part, x, number) if k in values else x for k, x in enumerate(args)]
            found.append(_real_rule(cx.node, name)(part, *given, **kwargs))
        re, im = found
        if isinstance(re, tuple):
            return tuple(Complex(*pair) for pair in zip(re, im, strict=True))
        return Complex(re, im)

    return rule


def _real_rule(node: Node, name: str) -> Rule:
    rule = RULES.get(node.op.qualname) or RULES.get(f"aten::{name}")
    if rule is None:
        raise Unsupported(f"{node.op.qualname} of complex numbers has no lowering rule")
    return rule


for _values, _names in BY_PARTS.items():
    for _name in _names.split():
        lowers_complex(f"aten::{_name}")(by_parts(_name, _values))


@lowers_complex("aten::ones", "aten::ones_like", "aten::new_ones", "aten::eye")
def real_constant_rule(cx: Context, *args: Any, **options: Any) -> Complex:
    """A constant without an imaginary part."""
    name = cx.op.split(".")[0]
    given = [part_of(cx, x, 0) for x in args]
    return Complex(
        _real_rule(cx.node, name)(PartContext(cx.node, 0), *given, **options),
        RULES["aten::zeros"](PartContext(cx.node, 1)),
    )


# ---------------------------------------------------------------- arithmetic on pairs


def operand_type(operands: Sequence[Any], node: Node) -> str:
    """The type of the parts of operands promoted together."""
    pairs: list[tuple[DType, int]] = []
    for value in node.inputs():
        if isinstance(value.type, TensorMeta):
            pairs.append((value.type.dtype, len(value.type.shape)))
    for x in operands:
        if not isinstance(x, Complex | Stage):
            pairs.append((dtypes.int64 if isinstance(x, Expr) else scalar_dtype(x), NUMBER))
    return part_type(result_type_of(pairs))


def stages_of(operands: Sequence[Any]) -> list[Stage]:
    """Every stage among the operands."""
    found: list[Stage] = []
    for x in operands:
        found += [x.re, x.im] if isinstance(x, Complex) else [x] if isinstance(x, Stage) else []
    return found


def pair_term(read: Reader, index: Index, x: Any, dtype: str) -> Pair:
    """An operand at the index of the result."""
    if isinstance(x, Complex):
        return Pair(*(operand_term(read, index, part, dtype) for part in x.parts))
    if isinstance(x, complex):
        return Pair(literal(x.real, dtype), literal(x.imag, dtype))
    return Pair(operand_term(read, index, x, dtype), literal(0, dtype))


PairFunction = Callable[..., Pair]


def on_pairs(cx: Context, fn: PairFunction, operands: Sequence[Any], *, cost: int = 2) -> Complex:
    """`fn` over broadcast operands as the node's complex result."""
    dtype = part_type(cx.meta().dtype)

    def part(number: int) -> Stage:
        def body(read: Reader, i: Index) -> Term:
            return fn(*(pair_term(read, i, x, dtype) for x in operands))[number]

        return PartContext(cx.node, number).result(stages_of(operands), body, cost=cost)

    return Complex(part(0), part(1))


def to_real(
    cx: Context, fn: Callable[..., Term], operands: Sequence[Any], *, cost: int = 2
) -> Stage:
    """`fn` over broadcast operands as the node's real result."""
    dtype = operand_type(operands, cx.node)
    result = cx.dtype()

    def body(read: Reader, i: Index) -> Term:
        return cast(fn(*(pair_term(read, i, x, dtype) for x in operands)), result)

    return cx.result(stages_of(operands), body, cost=cost)


def _function_rule(fn: PairFunction) -> Rule:
    cost = 4 if fn is FUNCTIONS["square"] else 2 * DEAR
    return lambda cx, z: on_pairs(cx, fn, [z], cost=cost)


for _name, _function in FUNCTIONS.items():
    lowers_complex(f"aten::{_name}")(_function_rule(_function))


def linear(cx: Context, fn: Callable[[Term, Term], Term], x: Any, y: Any) -> Complex:
    """A function of two operands that takes their parts apart."""
    parts = []
    for number in (0, 1):
        part = PartContext(cx.node, number)
        operands = [part_of(part, item, number) for item in (x, y)]
        parts.append(part.pointwise(fn, operands, part.dtype()))
    return Complex(*parts)


def times(cx: Context, y: Any, alpha: Any) -> Any:
    """alpha * y, where alpha is a number."""
    if alpha == 1:
        return y
    if not is_complex(y) and not isinstance(y, Stage):
        return alpha * y
    dtype = part_type(cx.meta().dtype)
    like = y.re if isinstance(y, Complex) else y

    def part(number: int) -> Stage:
        def body(read: Reader, i: Index) -> Term:
            return product(*(pair_term(read, i, x, dtype) for x in (y, alpha)))[number]

        context = PartContext(cx.node, number)
        return context.map("scaled", body, stages_of([y]), like)

    return Complex(part(0), part(1))


@lowers_complex("aten::add")
def add_rule(cx: Context, x: Any, y: Any, alpha: Any = 1) -> Complex:
    """x + alpha*y."""
    return linear(cx, add, x, times(cx, y, alpha))


@lowers_complex("aten::sub")
def sub_rule(cx: Context, x: Any, y: Any, alpha: Any = 1) -> Complex:
    """x - alpha*y."""
    return linear(cx, sub, x, times(cx, y, alpha))


@lowers_complex("aten::rsub")
def rsub_rule(cx: Context, x: Any, y: Any, alpha: Any = 1) -> Complex:
    """y - alpha*x."""
    return linear(cx, sub, y, times(cx, x, alpha))


@lowers_complex("aten::mul")
def mul_rule(cx: Context, x: Any, y: Any) -> Complex:
    """x * y."""
    return on_pairs(cx, product, [x, y])


@lowers_complex("aten::div")
def div_rule(cx: Context, x: Any, y: Any, rounding_mode: str | None = None) -> Complex:
    """x / y."""
    return on_pairs(cx, quotient, [x, y], cost=8)


@lowers_complex("aten::pow")
def pow_rule(cx: Context, x: Any, y: Any) -> Complex:
    """x ** y with tensors or numbers on either side."""
    if not isinstance(y, Complex | Stage | Expr):
        return on_pairs(cx, lambda z: to_number(z, y), [x], cost=8 if y in (2, 3, -1) else 3 * DEAR)
    return on_pairs(cx, pair_power, [x, y], cost=4 * DEAR)


def _sum(a: Pair, b: Pair) -> Pair:
    return Pair(add(a.re, b.re), add(a.im, b.im))


@lowers_complex("aten::lerp")
def lerp_rule(cx: Context, x: Any, end: Any, weight: Any) -> Complex:
    """x + weight*(end - x)."""

    def fn(a: Pair, c: Pair, w: Pair) -> Pair:
        way = Pair(sub(c.re, a.re), sub(c.im, a.im))
        rest = Pair(sub(literal(1.0, a.re.dtype), w.re), unary("neg", w.im))
        back = product(way, rest)
        near, far = _sum(a, product(w, way)), Pair(sub(c.re, back.re), sub(c.im, back.im))
        is_near = binary("lt", absolute(w), literal(0.5, a.re.dtype))
        return Pair(select(is_near, near.re, far.re), select(is_near, near.im, far.im))

    return on_pairs(cx, fn, [x, end, weight], cost=8)


@lowers_complex("aten::addcmul")
def addcmul_rule(cx: Context, x: Any, y: Any, z: Any, value: Any = 1) -> Complex:
    """x + value*y*z."""
    fn: PairFunction = lambda a, c, d, v: _sum(a, product(product(v, c), d))
    return on_pairs(cx, fn, [x, y, z, value], cost=6)


@lowers_complex("aten::addcdiv")
def addcdiv_rule(cx: Context, x: Any, y: Any, z: Any, value: Any = 1) -> Complex:
    """x + value*y/z."""
    fn: PairFunction = lambda a, c, d, v: _sum(a, product(v, quotient(c, d)))
    return on_pairs(cx, fn, [x, y, z, value], cost=12)


# ---------------------------------------------------------------- to and from real numbers


@lowers_complex("aten::_conj_physical", "aten::conj_physical", "aten::conj")
def conj_rule(cx: Context, z: Complex) -> Complex:
    """The conjugate."""
    part = PartContext(cx.node, 1)
    return Complex(z.re, part.pointwise(lambda a: unary("neg", a), [z.im], z.im.dtype))


@lowers_complex("aten::resolve_conj", "aten::resolve_neg")
def resolve_rule(cx: Context, z: Complex) -> Complex:
    """Nothing to do: conjugates are computed at once."""
    return z


@lowers_complex("aten::adjoint")
def adjoint_rule(cx: Context, z: Complex) -> Complex:
    """Matrices transposed and conjugated."""
    turned = [cx.reindexed(x, cx.shape(), lambda i: (*i[:-2], i[-1], i[-2])) for x in z.parts]
    turned_pair = Complex(*turned)
    result: Complex = conj_rule(cx, turned_pair)
    return result


@lowers_complex("aten::real")
def real_rule(cx: Context, z: Any) -> Stage:
    """The real parts."""
    return cx.reindexed(z.re, cx.shape(), lambda i: i)


@lowers_complex("aten::imag")
def imag_rule(cx: Context, z: Complex) -> Stage:
    """The imaginary parts."""
    return cx.reindexed(z.im, cx.shape(), lambda i: i)


@lowers_complex("aten::complex")
def complex_rule(cx: Context, re: Stage, im: Stage) -> Complex:
    """From parts."""
    parts = [
        PartContext(cx.node, k).result([x], _spread(x), cost=0) for k, x in enumerate((re, im))
    ]
    return Complex(*parts)


def _spread(x: Stage) -> Callable[[Reader, Index], Term]:
    return lambda read, i: operand_term(read, i, x, x.dtype)


@lowers_complex("aten::polar")
def polar_rule(cx: Context, length: Stage, turn: Stage) -> Complex:
    """From size and angle."""
    return on_pairs(
        cx,
        lambda r, t: Pair(mul(r.re, unary("cos", t.re)), mul(r.re, unary("sin", t.re))),
        [length, turn],
        cost=DEAR,
    )


@lowers_complex("aten::view_as_real")
def view_as_real_rule(cx: Context, z: Complex) -> Stage:
    """The memory itself, with one more dimension."""
    assert z.whole is not None
    return z.whole


@lowers_complex("aten::view_as_complex")
def view_as_complex_rule(cx: Context, x: Stage) -> Complex:
    """Pairs in memory as complex numbers."""
    return pair_in_memory(x)


@lowers_complex("aten::_to_copy", "aten::to")
def to_copy_rule(cx: Context, x: Any, *rest: Any, **options: Any) -> Any:
    """To another type: a real one drops the imaginary parts."""
    if not cx.meta().dtype.is_complex:
        return _to_real_copy(cx, x)
    parts = []
    for number in (0, 1):
        part = PartContext(cx.node, number)
        operand = part_of(part, x, number)
        parts.append(part.pointwise(lambda a: a, [operand], part.dtype(), cost=0))
    return Complex(*parts)


def _to_real_copy(cx: Context, z: Complex) -> Stage:
    if cx.dtype() == "i1":
        return to_real(cx, truth, [z])
    return cx.pointwise(lambda a: a, [z.re], z.re.dtype, cost=0)


@lowers_complex("aten::abs")
def abs_rule(cx: Context, z: Complex) -> Stage:
    """Sizes."""
    return to_real(cx, absolute, [z], cost=DEAR)


@lowers_complex("aten::angle")
def angle_rule(cx: Context, z: Complex) -> Stage:
    """Angles."""
    return to_real(cx, angle, [z], cost=DEAR)


def truth(z: Pair) -> Term:
    """Not 0."""
    return binary("or", nonzero(z.re), nonzero(z.im))


def equal(a: Pair, b: Pair) -> Term:
    """Both parts are equal."""
    return binary("and", binary("eq", a.re, b.re), binary("eq", a.im, b.im))


def finite(z: Pair) -> Term:
    """Both parts are finite."""
    inf = literal(float("inf"), z.re.dtype)
    return binary("and", *(binary("lt", unary("abs", part), inf) for part in z))


def either(name: str) -> Callable[[Pair], Term]:
    """Whether one of the parts is so."""
    return lambda z: binary("or", unary(name, z.re), unary(name, z.im))


PREDICATES: dict[str, Callable[..., Term]] = {
    "eq": equal, "ne": lambda a, b: unary("not", equal(a, b)), "isfinite": finite,
    "isnan": either("isnan"), "isinf": either("isinf"),
    "logical_not": lambda z: unary("not", truth(z)),
    "logical_and": lambda a, b: binary("and", truth(a), truth(b)),
    "logical_or": lambda a, b: binary("or", truth(a), truth(b)),
    "logical_xor": lambda a, b: binary("ne", truth(a), truth(b)),
    "isreal": lambda z: binary("eq", z.im, literal(0, z.im.dtype)),
}  # fmt: skip


def _predicate_rule(fn: Callable[..., Term]) -> Rule:
    return lambda cx, *operands: to_real(cx, fn, operands)


for _name, _predicate in PREDICATES.items():
    lowers_complex(f"aten::{_name}")(_predicate_rule(_predicate))


# ---------------------------------------------------------------- reductions


def _truth_rule(name: str) -> Rule:
    def rule(cx: Context, z: Complex, *rest: Any, **options: Any) -> Any:
        stage = Stage("map", cx.name("truth"), cx.op, z.shape, "i1", z.parts)
        stage.body = lambda read, i: truth(Pair(read(z.re, i), read(z.im, i)))
        return _real_rule(cx.node, name)(cx, stage, *rest, **options)

    return rule


lowers_complex("aten::any")(_truth_rule("any"))
lowers_complex("aten::all")(_truth_rule("all"))


@lowers_complex("aten::prod")
def prod_rule(
    cx: Context, z: Complex, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Complex:
    """Products along dimensions, halved until one is left."""
    dims = reduce_dims(dim, len(z.shape))
    parts = [PartContext(cx.node, number) for number in (0, 1)]
    pair = Complex(*(cx_.converted(x) for cx_, x in zip(parts, z.parts)))
    for round_, d in enumerate(dims):
        pair = _product_along(parts, pair, d, round_)
    found = [
        cx_.reindexed(x, _without(z.shape, dims), _inserted(dims))
        for cx_, x in zip(parts, pair.parts)
    ]
    return Complex(*(finish(cx_, x, z.re, dims, cost=0) for cx_, x in zip(parts, found)))


def _without(shape: Sequence[Expr], dims: Sequence[int]) -> list[Expr]:
    return [size for d, size in enumerate(shape) if d not in dims]


def _inserted(dims: Sequence[int]) -> Callable[[Index], Index]:
    def remap(i: Index) -> Index:
        rest = iter(i)
        return tuple(expr_of(0) if d in dims else next(rest) for d in range(len(i) + len(dims)))

    return remap


def _product_along(parts: Sequence[PartContext], z: Complex, d: int, round_: int) -> Complex:
    """The product along one dimension, which is left with size 1."""
    length = as_int(z.shape[d])
    if not length:
        raise Unsupported(f"a complex product over {z.shape[d]} elements")
    step = 0
    while length > 1:
        half = (length + 1) // 2
        z = _halved(parts, z, d, (half, length), f"product{round_}_{step}")
        length, step = half, step + 1
    return z


def _halved(
    parts: Sequence[PartContext], z: Complex, d: int, sizes: tuple[int, int], name: str
) -> Complex:
    """Every element times the one half the length further on, if there is one."""
    half, length = sizes

    def part(number: int) -> Stage:
        def body(read: Reader, i: Index) -> Term:
            from plait.backends.llvm.lowering.view import in_range

            here = Pair(read(z.re, i), read(z.im, i))
            there = put(i, d, i[d] + half)
            if length == 2 * half:
                return product(here, Pair(read(z.re, there), read(z.im, there)))[number]
            has = in_range(i[d], expr_of(0), expr_of(length - half), expr_of(1))
            other = Pair(read(z.re, there, has), read(z.im, there, has))
            return select(has, product(here, other)[number], here[number])

        like = parts[number].reindexed(z.re, put(z.shape, d, expr_of(half)), lambda i: i)
        return parts[number].map(name, body, [z.re, z.im], like, cost=DEAR)

    return Complex(part(0), part(1))


@lowers_complex("aten::var.correction", "aten::std.correction")
def var_rule(
    cx: Context, z: Complex, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> Stage:
    """The variances of both parts together, or the root of that."""
    dims = reduce_dims(dim, len(z.shape))
    given = 1 if correction is None else correction
    spreads = [
        variance(PartContext(cx.node, k), "var", x, dims, given)[0] for k, x in enumerate(z.parts)
    ]
    total = cx.part("var", add, spreads, z.re.dtype, like=spreads[0])
    if cx.op.startswith("std"):
        return finish(cx, total, z.re, dims, fn=lambda t: unary("sqrt", t), cost=4)
    return finish(cx, total, z.re, dims, cost=0)


# ---------------------------------------------------------------- matrix products


def product_of(
    cx: Context, real: Callable[[PartContext, str, Stage, Stage], Stage], a: Any, b: Any
) -> tuple[list[Any], list[Any]]:
    """The real products whose difference and sum are the parts of a complex one."""
    found: list[list[Any]] = []
    for number, pairs in ((0, ((0, 0), (1, 1))), (1, ((0, 1), (1, 0)))):
        part = PartContext(cx.node, number)
        found.append(
            [real(part, f"p{m}{n}", part_of(part, a, m), part_of(part, b, n)) for m, n in pairs]
        )
    return found[0], found[1]


def joined(cx: Context, products: tuple[list[Any], list[Any]]) -> Complex:
    """The node's result from its real products."""
    re, im = PartContext(cx.node, 0), PartContext(cx.node, 1)
    return Complex(
        re.pointwise(sub, products[0], re.dtype()), im.pointwise(add, products[1], im.dtype())
    )


@lowers_complex("aten::mm", "aten::bmm")
def mm_rule(cx: Context, a: Any, b: Any) -> Complex:
    """A product, maybe batched."""
    return joined(cx, product_of(cx, gemm, a, b))


def _whole_rule(name: str) -> Rule:
    def rule(cx: Context, a: Any, b: Any) -> Complex:
        real = _real_rule(cx.node, name)
        return joined(cx, product_of(cx, lambda part, label, x, y: real(part, x, y), a, b))

    return rule


for _name in ("matmul", "dot", "mv"):
    lowers_complex(f"aten::{_name}")(_whole_rule(_name))


@lowers_complex("aten::vdot")
def vdot_rule(cx: Context, a: Complex, b: Complex) -> Complex:
    """The product with the conjugate of the first."""
    (rr, ii), (ri, ir) = product_of(cx, lambda p, s, x, y: RULES["aten::vdot"](p, x, y), a, b)
    re, im = PartContext(cx.node, 0), PartContext(cx.node, 1)
    return Complex(re.pointwise(add, [rr, ii], re.dtype()), im.pointwise(sub, [ri, ir], im.dtype()))


@lowers_complex("aten::linear")
def linear_rule(cx: Context, x: Any, weight: Any, bias: Any = None) -> Complex:
    """x @ weight.T + bias."""
    (rr, ii), (ri, ir) = product_of(
        cx, lambda p, s, a, b: RULES["aten::linear"](p, a, b), x, weight
    )
    parts = []
    for number, pair, fn in ((0, [rr, ii], sub), (1, [ri, ir], add)):
        part = PartContext(cx.node, number)
        if bias is None:
            parts.append(part.pointwise(fn, pair, part.dtype()))
            continue
        more = [*pair, part_of(part, bias, number)]
        parts.append(part.pointwise(lambda a, b, c, fn=fn: add(fn(a, b), c), more, part.dtype()))
    return Complex(*parts)


@lowers_complex("aten::addmm", "aten::baddbmm")
def addmm_rule(cx: Context, x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Complex:
    """beta*x + alpha*(a @ b)."""
    (rr, ii), (ri, ir) = product_of(cx, gemm, a, b)
    dtype = part_type(cx.meta().dtype)

    def part(number: int) -> Stage:
        def body(read: Reader, i: Index) -> Term:
            re, im = (
                fn(operand_term(read, i, p, dtype), operand_term(read, i, q, dtype))
                for fn, p, q in ((sub, rr, ii), (add, ri, ir))
            )
            total: Pair | None = None
            for factor, pair in ((alpha, Pair(re, im)), (beta, pair_term(read, i, x, dtype))):
                if factor != 0:
                    number_ = pair_term(read, i, factor, dtype)
                    term = pair if factor == 1 else product(number_, pair)
                    total = term if total is None else _sum(total, term)
            return literal(0, dtype) if total is None else total[number]

        return PartContext(cx.node, number).result([*stages_of([x]), rr, ii, ri, ir], body, cost=4)

    return Complex(part(0), part(1))
