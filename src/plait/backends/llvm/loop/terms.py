"""Terms: the immutable, hash-consed scalar expressions of the loop IR.

A term is one scalar as a function of axis symbols. Equal terms are one object, so a DAG is shared
by identity and compared with `is`. Owns the list of operations and their arity; must not know
kernels, graphs, NumPy or LLVM.

Element types are short strings: f32 f64 f16 bf16, i8 i16 i32 i64, u8 u16 u32 u64, and i1 for
booleans (one byte in memory).

| op | args | attr |
|---|---|---|
| const | | Python number |
| index | | integer `Expr` over axes and sizes; the term is i64 |
| load | () or (mask,) | (buffer number, element offset `Expr`); mask false: zero, no read |
| gather | index terms (i64), then maybe a mask | `GatherAttr` |
| reduce | (body,) | (kind, `Axis`) |
| philox | (seed i64, call i64) | element number `Expr`; the term is u32 |
| cast | (value,) | None, or "kept": a rounding to half precision that must happen |
| all others | operands of one dtype (`cast` and comparisons change it) | None |

Half precision is a format of memory: reductions do not run in it, and
a cast to half precision that is not kept may be left out where its value is read as float32 again.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from plait.symbolic.expr import Expr, symbol

__all__ = [
    "ARITY",
    "COMPARISONS",
    "REDUCTIONS",
    "Axis",
    "GatherAttr",
    "GatherDim",
    "Term",
    "is_float",
    "is_half",
    "is_signed",
    "make_term",
    "walk",
]

FLOATS = frozenset({"f16", "bf16", "f32", "f64"})
HALVES = frozenset({"f16", "bf16"})
SIGNED = frozenset({"i8", "i16", "i32", "i64"})
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
REDUCTIONS = frozenset({"sum", "prod", "max", "min", "any", "all", "argmax", "argmin"})

# Pointwise operations by number of operands. strict_*: IEEE, never contracted or reassociated.
# max/min propagate NaN. floordiv and mod round towards minus infinity (Python). shr is logical on
# unsigned and arithmetic on signed types. select(condition, if_true, if_false); bitcast keeps the
# width. fma(a, b, c) is a*b + c rounded once.
UNARY = (
    "neg abs sign exp expm1 log log1p log2 exp2 sqrt rsqrt recip erf sin cos tan tanh sigmoid "
    "asin acos atan sinh cosh floor ceil trunc round not cast bitcast isnan isinf strict_sqrt"
)
BINARY = (
    "add sub mul div floordiv mod fmod truncdiv max min pow atan2 copysign "
    "eq ne lt le gt ge and or xor shl shr strict_add strict_sub strict_mul strict_div"
)
ARITY: dict[str, int] = {
    **dict.fromkeys(UNARY.split(), 1),
    **dict.fromkeys(BINARY.split(), 2),
    "select": 3,
    "fma": 3,
    "const": 0,
    "index": 0,
    "reduce": 1,
    "philox": 2,
}


class Axis(NamedTuple):
    """A loop variable running over range(extent); the extent may mention axes outside it."""

    name: str
    extent: Expr

    @property
    def symbol(self) -> Expr:
        """The axis as a symbol in offsets and indices, with its extent as bound."""
        return symbol(self.name, 0, self.extent)


class GatherDim(NamedTuple):
    """How one index term of a gather addresses its buffer."""

    stride: Expr
    size: Expr
    wraps: bool
    """Whether a negative index counts from the end (after which it must be in range)."""


class GatherAttr(NamedTuple):
    """Loads buffer[base + sum(index_k * stride_k)]; an index outside its size sets the status."""

    buffer: int
    base: Expr
    dims: tuple[GatherDim, ...]
    check: int | None
    """Code of the failed check inside the kernel; None: the indices are known to be in range."""


class Term:
    """One scalar operation. Made by `make_term` only; compared by identity."""

    __slots__ = ("__weakref__", "args", "attr", "dtype", "op", "symbols")

    op: str
    dtype: str
    args: tuple[Term, ...]
    attr: Any
    """What the table above says; hashable."""
    symbols: frozenset[str]
    """Names of the axis and size symbols it depends on; an axis bound by `reduce` is not free."""

    def __repr__(self) -> str:
        inner = ", ".join(
            [*(a.op for a in self.args), *([] if self.attr is None else [str(self.attr)])]
        )
        return f"<{self.op} {self.dtype} ({inner})>"

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return make_term, (self.op, self.dtype, self.args, self.attr)


_interned: weakref.WeakValueDictionary[tuple[object, ...], Term] = weakref.WeakValueDictionary()


def make_term(op: str, dtype: str, args: tuple[Term, ...] = (), attr: Hashable = None) -> Term:
    """Return the one term with these fields."""
    key = (op, dtype, tuple(map(id, args)), constant_key(attr) if op == "const" else attr)
    found = _interned.get(key)
    if found is None:
        found = Term()
        found.op, found.dtype, found.args, found.attr = op, dtype, args, attr
        found.symbols = _symbols_of(op, args, attr)
        _interned[key] = found
    return found


def constant_key(value: Hashable) -> object:
    """Identity of a constant: 0.0 and -0.0, 1 and True differ; a NaN equals itself bit for bit."""
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    return (type(value).__name__, value)


def _symbols_of(op: str, args: tuple[Term, ...], attr: Any) -> frozenset[str]:
    names: set[str] = set()
    for arg in args:
        names |= arg.symbols
    if op == "reduce":
        axis = attr[1]
        names.discard(axis.name)
        names |= _names(axis.extent)
        return frozenset(names)
    for expr in expressions_of(op, attr):
        names |= _names(expr)
    return frozenset(names)


def expressions_of(op: str, attr: Any) -> tuple[Expr, ...]:
    """The integer expressions in the attribute of a leaf term (not the extent of a reduction)."""
    if op in ("index", "philox"):
        return (attr,)
    if op == "load":
        return (attr[1],)
    if op == "gather":
        assert isinstance(attr, GatherAttr)
        return (attr.base, *(e for dim in attr.dims for e in (dim.stride, dim.size)))
    return ()


def _names(expr: Expr) -> set[str]:
    return {free.name for free in expr.free_symbols}


def is_float(dtype: str) -> bool:
    """Whether `dtype` is a floating element type."""
    return dtype in FLOATS


def is_half(dtype: str) -> bool:
    """Whether `dtype` is a floating type of 16 bits, whose arithmetic is done in f32."""
    return dtype in HALVES


def is_signed(dtype: str) -> bool:
    """Whether `dtype` is a signed integer element type."""
    return dtype in SIGNED


def walk(*roots: Term) -> Iterator[Term]:
    """Every term under `roots` once, operands before their users."""
    done: set[int] = set()
    stack: list[tuple[Term, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        term, ready = stack.pop()
        if ready:
            yield term
        elif id(term) not in done:
            done.add(id(term))
            stack.append((term, True))
            stack.extend((arg, False) for arg in reversed(term.args) if id(arg) not in done)
