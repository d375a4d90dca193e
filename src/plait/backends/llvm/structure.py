"""Kernels and plans as text that two of them share exactly when they are equal: what keys of
compiled code are made of.

Works on the fields that records have, so a field that is added later is part of the text unless it
is named in `IGNORED`. The text holds the symbols with their bounds, since simplification may use
them. Must not know how code is emitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from plait.backends.llvm.loop.kernel import Kernel
from plait.backends.llvm.loop.terms import Term, constant_key, walk
from plait.backends.llvm.plan import AttentionForm, Check, Plan
from plait.base.hashing import canonical_text
from plait.symbolic.expr import Expr
from plait.symbolic.nodes import Symbol

__all__ = ["digest", "form_text", "kernel_text", "plan_text"]

IGNORED = {
    "Kernel": ("name",),
    "KernelCall": ("name", "fused"),
    "Gemm": ("name",),
    "Attention": ("name",),
    "OutputSpec": ("name",),
    "Plan": ("notes",),
}
"""Fields that only people read: they are not part of any code."""


def digest(text: str) -> str:
    """A short name for a text: 80 bits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def kernel_text(kernel: Kernel) -> str:
    """A canonical kernel: its terms one a line, then its fields."""
    writer = _Writer(str)
    lines = [writer.define(number, term) for number, term in enumerate(walk(*kernel.roots()))]
    lines.append(writer.record(kernel))
    return "\n".join((*lines, *writer.bounds()))


def form_text(form: AttentionForm) -> str:
    """What code for attention is made for."""
    return _Writer(str).record(form)


def plan_text(plan: Plan, name_of: Callable[[Kernel], str]) -> str:
    """A plan, its kernels by name; what its checks say is not part of its code."""
    writer = _Writer(name_of)
    return "\n".join((writer.record(plan), *writer.bounds()))


class _Writer:
    """Text of values; collects the symbols that it meets."""

    def __init__(self, name_of: Callable[[Kernel], str]) -> None:
        self.name_of = name_of
        self.numbers: dict[int, int] = {}
        self.symbols: set[Symbol] = set()

    def define(self, number: int, term: Term) -> str:
        """The line of a term, whose operands have lines already."""
        args = ", ".join(f"t{self.numbers[id(arg)]}" for arg in term.args)
        self.numbers[id(term)] = number
        attr = constant_key(term.attr) if term.op == "const" else term.attr
        return f"t{number} = {term.op} {term.dtype} ({args}) {self.value(attr)}"

    def record(self, value: Any) -> str:
        """A dataclass or named tuple, by its fields."""
        kind = type(value)
        names = kind._fields if isinstance(value, tuple) else [f.name for f in fields(value)]
        ignored = IGNORED.get(kind.__name__, ())
        parts = (f"{n}={self.value(getattr(value, n))}" for n in names if n not in ignored)
        return f"{kind.__name__}({', '.join(parts)})"

    def value(self, value: Any) -> str:
        """Any value that kernels and plans hold; ArgumentTypeError for others."""
        if isinstance(value, Expr):
            self.symbols |= value.free_symbols
            return f"<{value}>"
        if isinstance(value, Term):
            return f"t{self.numbers[id(value)]}"
        if isinstance(value, Kernel):
            return self.name_of(value)
        if isinstance(value, Check):
            return "check"
        if isinstance(value, tuple | list):
            if hasattr(value, "_fields"):
                return self.record(value)
            return "(" + "".join(self.value(item) + "," for item in value) + ")"
        if is_dataclass(value):
            return self.record(value)
        return canonical_text(value)

    def bounds(self) -> list[str]:
        """One line for each symbol met, and for those in its bounds."""
        lines = {}
        waiting = list(self.symbols)
        while waiting:
            found = waiting.pop()
            if found not in lines:
                lines[found] = f"{found.name} in [{found.lower}, {found.upper})"
                if isinstance(found.upper, Expr):
                    waiting += found.upper.free_symbols
        return sorted(lines.values())
