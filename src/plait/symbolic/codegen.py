"""Integer and Boolean expressions as Python source, and as compiled functions.

Owns the printed form, which is also what `str()` of an expression gives. Works on `op` and `args`
only and imports no node class, since the nodes print themselves with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plait.base.errors import InvalidArgument

if TYPE_CHECKING:
    from plait.symbolic.nodes import Expr
    from plait.symbolic.relation import BoolExpr

__all__ = ["compile_function", "source", "tuple_source"]

# Binding strength of the printed forms; an operand weaker than its place gets parentheses.
_OR, _AND, _COMPARE, _SUM, _PRODUCT, _QUOTIENT, _PRIMARY = range(7)

Printed = tuple[str, int]
Names = Mapping[str, str]


def source(expression: Expr | BoolExpr | int | bool, names: Names | None = None) -> str:
    """Python source of `expression`; a symbol becomes `names[symbol]`, or itself.

    The replacement texts must bind as tightly as a name: `n`, `x.shape[0]`, `(a + 1)`.
    InvalidArgument if `names` is given and lacks a symbol.

    >>> from plait.symbolic.expr import symbol
    >>> source((symbol("n") + 1) // 2, {"n": "x.shape[0]"})
    '(x.shape[0] + 1)//2'
    """
    if isinstance(expression, int):
        return str(expression)
    return _print(expression, names)[0]


def tuple_source(expressions: Sequence[Expr | BoolExpr | int], names: Names | None = None) -> str:
    """Python source of a tuple of expressions: a shape or strides."""
    texts = [source(expression, names) for expression in expressions]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def compile_function(
    expressions: Sequence[Expr | BoolExpr | int], parameters: Sequence[str]
) -> Callable[..., tuple[int, ...]]:
    """A function of the symbols named in `parameters`, in that order, that returns all values as a
    tuple.
    """
    names = {name: name for name in parameters}
    code = f"lambda {', '.join(parameters)}: {tuple_source(expressions, names)}"
    function: Callable[..., tuple[int, ...]] = eval(code, {"min": min, "max": max})
    return function


def _print(e: Any, names: Names | None) -> Printed:
    return _PRINTERS[e.op](e, names)


def _at(e: Any, names: Names | None, strength: int) -> str:
    text, got = _print(e, names)
    return text if got >= strength else f"({text})"


def _const(e: Any, names: Names | None) -> Printed:
    return str(e.value), _PRIMARY if e.value >= 0 else _PRODUCT


def _symbol(e: Any, names: Names | None) -> Printed:
    if names is None:
        return e.name, _PRIMARY
    if e.name not in names:
        raise InvalidArgument(f"codegen: symbol {e.name!r} has no source text; got {list(names)}.")
    return names[e.name], _PRIMARY


def _sum(e: Any, names: Names | None) -> Printed:
    text = ""
    for term in e.args:
        piece = _at(term, names, _PRODUCT)
        if not text:
            text = piece
        elif piece.startswith("-"):
            text += f" - {piece[1:]}"
        else:
            text += f" + {piece}"
    return text, _SUM


def _product(e: Any, names: Names | None) -> Printed:
    first, *others = e.args
    if first.op == "Const":
        sign = "-" if first.value == -1 else f"{first.value}*"
        return sign + "*".join(_at(factor, names, _PRIMARY) for factor in others), _PRODUCT
    return "*".join(_at(factor, names, _PRIMARY) for factor in e.args), _PRODUCT


def _infix(sign: str, operands: int, strength: int) -> Callable[[Any, Names | None], Printed]:
    def printer(e: Any, names: Names | None) -> Printed:
        return sign.join(_at(arg, names, operands) for arg in e.args), strength

    return printer


def _call(function: str) -> Callable[[Any, Names | None], Printed]:
    def printer(e: Any, names: Names | None) -> Printed:
        return f"{function}({', '.join(_print(arg, names)[0] for arg in e.args)})", _PRIMARY

    return printer


_PRINTERS: dict[str, Callable[[Any, Names | None], Printed]] = {
    "Const": _const,
    "Symbol": _symbol,
    "Add": _sum,
    "Mul": _product,
    "FloorDiv": _infix("//", _PRIMARY, _QUOTIENT),
    "Mod": _infix("%", _PRIMARY, _QUOTIENT),
    "Min": _call("min"),
    "Max": _call("max"),
    "Eq": _infix(" == ", _SUM, _COMPARE),
    "Ne": _infix(" != ", _SUM, _COMPARE),
    "Lt": _infix(" < ", _SUM, _COMPARE),
    "Le": _infix(" <= ", _SUM, _COMPARE),
    "And": _infix(" and ", _COMPARE, _AND),
    "Or": _infix(" or ", _AND, _OR),
}
