"""Kernels as readable Python that runs: loops over axes, one line per shared value.

`print_kernel` gives the text of a function of the buffers and sizes; executed in `namespace()` it
does what the kernel means, one point at a time. Must not know graphs or LLVM.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from plait.backends.llvm.loop.interpret import NUMPY_DTYPES, CheckFailed
from plait.backends.llvm.loop.kernel import Kernel, Store
from plait.backends.llvm.loop.reference import BINARY, UNARY, philox_words
from plait.backends.llvm.loop.terms import HALVES, Axis, GatherAttr, Term, walk
from plait.symbolic.expr import Expr

__all__ = ["namespace", "print_kernel", "print_term"]

# fmt: off
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "and": "&", "or": "|", "xor": "^",
}
_START = {
    "sum": "0", "prod": "1", "max": "-inf", "min": "inf", "any": "False", "all": "True",
    "argmax": "(-inf, 0)", "argmin": "(inf, 0)",
}
# fmt: on


def print_kernel(kernel: Kernel) -> str:
    """The kernel as a Python function `<name>_kernel`; a comment types its buffers."""
    return "\n".join(_Printer(kernel).lines) + "\n"


def print_term(term: Term) -> str:
    """One term as one expression (reductions as generator expressions)."""
    return _text(term, {})


class _Printer:
    """Emits what is computable at each loop level before opening the next level."""

    def __init__(self, kernel: Kernel) -> None:
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.counter = itertools.count()
        self.uses = Counter(id(arg) for term in walk(*kernel.roots()) for arg in term.args)
        self.uses.update(id(root) for root in kernel.roots())
        params = [f"b{i}" for i in range(len(kernel.buffers))]
        roles = ", ".join(f"b{i}: {b.role} {b.dtype}" for i, b in enumerate(kernel.buffers))
        self.line(0, f"def {kernel.name}_kernel({', '.join([*params, *kernel.sizes])}):  # {roles}")
        self.body(kernel)

    def line(self, indent: int, text: str) -> None:
        self.lines.append("    " * indent + text)

    def body(self, kernel: Kernel) -> None:
        bound = set(kernel.sizes)
        for depth in range(len(kernel.axes) + 1):
            roots = [store.value for store in kernel.stores if store.depth >= depth]
            roots += [i.term for s in kernel.stores if s.depth >= depth for i in s.indices]
            self.block(depth + 1, bound, roots)
            for store in kernel.stores:
                if store.depth == depth:
                    self.store(depth + 1, store)
            if depth < len(kernel.axes):
                axis = kernel.axes[depth]
                bound.add(axis.name)
                self.line(depth + 1, f"for {axis.name} in range({axis.extent}):")

    def block(self, indent: int, bound: set[str], roots: list[Term]) -> None:
        """Name every shared or loop-invariant value that can be computed here."""
        order = list(walk(*roots))
        inner = {id(a) for t in order if not t.symbols <= bound for a in t.args}
        inner |= {id(t.args[0]) for t in order if t.op == "reduce"}
        for term in order:
            if id(term) in self.names or not term.symbols <= bound or term.op in _TRIVIAL:
                continue
            if term.op == "reduce":
                self.reduce(indent, bound, term)
            elif self.uses[id(term)] > 1 or id(term) in inner:
                text = self.text(term)
                self.line(indent, f"{self.name(term)} = {text}  # {term.dtype}")

    def reduce(self, indent: int, bound: set[str], term: Term) -> None:
        kind, axis = _reduction(term)
        (body,) = term.args
        self.block(indent, bound, [body])
        total = self.name(term)
        self.line(indent, f"{total} = {_START[kind]}  # {term.dtype}")
        self.line(indent, f"for {axis.name} in range({axis.extent}):")
        outside = dict(self.names)
        self.block(indent + 1, bound | {axis.name}, [body])
        where = f", {axis.name}" if kind.startswith("arg") else ""
        self.line(indent + 1, f"{total} = fold_{kind}({total}, {self.text(body)}{where})")
        self.names = outside  # what was named inside the loop is unknown after it
        if where:
            self.line(indent, f"{total} = {total}[1]")

    def store(self, indent: int, store: Store) -> None:
        place = str(store.offset)
        for index in store.indices:
            checked = _check(self.text(index.term), index.dim.size, index.dim.wraps, store.check)
            place += f" + {checked}*{_factor(index.dim.stride)}"
        if store.run is not None:
            first = f"if ({store.run.row}) % {store.run.length} == 0"
            self.line(indent, f"{first}: b{store.buffer}[{place}] = 0")
        sign = "+=" if store.kind == "add" else "="
        self.line(indent, f"b{store.buffer}[{place}] {sign} {self.text(store.value)}")

    def name(self, term: Term) -> str:
        if id(term) not in self.names:
            self.names[id(term)] = f"t{next(self.counter)}"
        return self.names[id(term)]

    def text(self, term: Term) -> str:
        return _text(term, self.names)


_KEPT = "kept_"
_TRIVIAL = frozenset({"const", "index"})


def _reduction(term: Term) -> tuple[str, Axis]:
    kind, axis = term.attr
    return kind, axis


def _factor(expr: Expr) -> str:
    text = str(expr)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _check(text: str, size: Expr, wraps: bool, code: int | None) -> str:
    if code is None and not wraps:
        return text if text.isidentifier() else f"({text})"
    return f"check({text}, {size}, {wraps}, {code})"


def _text(term: Term, names: dict[int, str]) -> str:
    known = names.get(id(term))
    if known is not None:
        return known
    args = [_text(arg, names) for arg in term.args]
    if term.op in _SPECIAL:
        return str(_SPECIAL[term.op](term, args))
    if term.op in _INFIX:
        left, right = (_parenthesised(text) for text in args)
        return f"{left} {_INFIX[term.op]} {right}"
    return f"{term.op if term.op != 'not' else 'not_'}({', '.join(args)})"


def _parenthesised(text: str) -> str:
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == " " and depth == 0:
            return f"({text})"
    return text


def _const(term: Term, args: list[str]) -> str:
    value = term.attr
    return str(value) if term.dtype in ("i1", "i64") else f"{term.dtype}({value})"


def _load(term: Term, args: list[str]) -> str:
    buffer, offset = term.attr
    return f"b{buffer}[{offset}]" if not args else f"load(b{buffer}, {offset}, {args[0]})"


def _gather(term: Term, args: list[str]) -> str:
    attr = term.attr
    assert isinstance(attr, GatherAttr)
    mask = f"{args[len(attr.dims)]}" if len(args) > len(attr.dims) else ""
    parts = [] if str(attr.base) == "0" else [str(attr.base)]
    for text, dim in zip(args, attr.dims):
        checked = _check(text, dim.size, dim.wraps, attr.check)
        parts.append(f"{checked}*{_factor(dim.stride)}" if str(dim.stride) != "1" else checked)
    place = " + ".join(parts)
    return f"load(b{attr.buffer}, lambda: {place}, {mask})" if mask else f"b{attr.buffer}[{place}]"


def _select(term: Term, args: list[str]) -> str:
    return f"select({', '.join(args)})"


_SPECIAL: dict[str, Any] = {
    "const": _const,
    "index": lambda term, args: f"i64({term.attr})",
    "load": _load,
    "gather": _gather,
    "select": _select,
    "cast": lambda term, args: f"{_KEPT if term.attr else ''}{term.dtype}({args[0]})",
    "bitcast": lambda term, args: f"{args[0]}.view({term.dtype!r})",
    "philox": lambda term, args: f"philox({args[0]}, {args[1]}, {term.attr})",
    "reduce": lambda term, args: (
        f"{_reduction(term)[0]}({args[0]} for {_reduction(term)[1].name} "
        f"in range({_reduction(term)[1].extent}))"
    ),
}


def namespace() -> dict[str, Any]:
    """The names that printed kernels use."""
    import numpy as np

    names: dict[str, Any] = {op: fn for op, fn in (UNARY | BINARY).items() if op not in _INFIX}
    names |= {name: dtype.type for name, dtype in NUMPY_DTYPES.items()}
    names |= {f"{_KEPT}{name}": NUMPY_DTYPES[name].type for name in HALVES}
    names |= {"inf": float("inf"), "nan": float("nan"), "not_": UNARY["not"], "check": _run_check}
    names |= {"load": _run_load, "select": lambda c, a, b: a if c else b}
    names["philox"] = lambda s, c, e: philox_words(*map(np.asarray, (s, c, e)))[()]
    names |= {"fold_sum": lambda t, v: t + v, "fold_prod": lambda t, v: t * v}
    names |= {"fold_max": np.maximum, "fold_min": np.minimum}
    names |= {"fold_any": lambda t, v: bool(t or v), "fold_all": lambda t, v: bool(t and v)}
    names |= {"fold_argmax": _run_argmax, "fold_argmin": lambda t, v, i: _run_argmin(t, v, i)}
    return names


def _run_check(value: int, size: int, wraps: bool, code: int | None) -> int:
    value = int(value) + (size if wraps and value < 0 else 0)
    if not 0 <= value < size and code is not None:
        raise CheckFailed(code)
    return value


def _run_load(buffer: Any, place: Any, mask: bool) -> Any:
    if not mask:
        return buffer.dtype.type(0)
    return buffer[place() if callable(place) else place]


def _run_argmax(state: tuple[Any, int], value: Any, i: int) -> tuple[Any, int]:
    better = value > state[0] or (value != value and state[0] == state[0])
    return (value, i) if better else state


def _run_argmin(state: tuple[Any, int], value: Any, i: int) -> tuple[Any, int]:
    better = value < state[0] or (value != value and state[0] == state[0])
    return (value, i) if better else state
