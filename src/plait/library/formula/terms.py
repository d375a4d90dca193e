"""What a formula is made of: numbers, names, and functions applied to terms.

Terms are shared: equal ones are one object, so that a formula is a graph and every part of it is
computed once. Must not know what the functions mean.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

__all__ = ["Term", "apply", "name", "names_in", "number", "ordered", "show"]

Number = bool | int | float


class Term:
    """One part of a formula.

    ``fn`` is the name of a function and ``args`` its operands; without it the term is the parameter
    ``leaf`` (a str) or the number ``leaf``. Made by `apply`, `name` and `number` only.
    """

    __slots__ = ("__weakref__", "args", "fn", "leaf")

    def __init__(self, fn: str | None, args: tuple[Term, ...], leaf: str | Number | None) -> None:
        self.fn = fn
        self.args = args
        self.leaf = leaf

    def __repr__(self) -> str:
        return show(self)

    @property
    def is_number(self) -> bool:
        """Whether the term is a number written in the formula."""
        return self.fn is None and not isinstance(self.leaf, str)


_known: weakref.WeakValueDictionary[Any, Term] = weakref.WeakValueDictionary()


def _made(key: Any, fn: str | None, args: tuple[Term, ...], leaf: str | Number | None) -> Term:
    found = _known.get(key)
    if found is None:
        found = _known[key] = Term(fn, args, leaf)
    return found


def number(value: Number) -> Term:
    """The number ``value``; 1, 1.0 and True are different ones, and so are 0.0 and -0.0."""
    return _made((type(value), repr(value)), None, (), value)


def name(text: str) -> Term:
    """The parameter called ``text``."""
    return _made(text, None, (), text)


def apply(fn: str, *args: Term) -> Term:
    """``fn(*args)``."""
    return _made((fn, args), fn, args, None)


def ordered(root: Term) -> list[Term]:
    """Every part of ``root`` once, operands before what uses them; without recursion."""
    out: dict[Term, None] = {}
    stack = [root]
    while stack:
        term = stack[-1]
        waiting = [a for a in term.args if a not in out]
        if waiting:
            stack += reversed(waiting)
            continue
        out.setdefault(stack.pop())
    return list(out)


def names_in(root: Term) -> Iterator[str]:
    """The parameters that occur, in order of first use."""
    return (t.leaf for t in ordered(root) if isinstance(t.leaf, str))


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "and", "or": "or",
}  # fmt: skip
_PREFIX = {"neg": "-", "not": "not "}


def show(root: Term) -> str:
    """The term as one line of Python, with every operation in brackets."""
    text: dict[Term, str] = {}
    for term in ordered(root):
        args = [text[a] for a in term.args]
        if term.fn is None:
            text[term] = str(term.leaf)
        elif term.fn in _INFIX:
            text[term] = f"({args[0]} {_INFIX[term.fn]} {args[1]})"
        elif term.fn in _PREFIX:
            text[term] = f"({_PREFIX[term.fn]}{args[0]})"
        elif term.fn == "where":
            text[term] = f"({args[1]} if {args[0]} else {args[2]})"
        else:
            text[term] = f"{term.fn}({', '.join(args)})"
    return text[root]
