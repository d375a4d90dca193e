"""The symbolic shape environment of one trace: symbols, their values now, and assumptions on them.

Every comparison of symbolic sizes that the trace makes is answered from the sizes of the example
and remembered as a guard. Sizes 0 and 1 are never symbolic.
"""

from __future__ import annotations

from plait.capture.source import user_stack
from plait.ir.graph import Frame
from plait.symbolic.expr import BoolExpr, Expr, eq, not_, symbol
from plait.symbolic.symint import SymInt

__all__ = ["ShapeEnv", "ShapeGuard"]

MIN_SYMBOLIC_SIZE = 2


class ShapeGuard:
    """An assumption on sizes: the condition and the user's line that made it."""

    __slots__ = ("condition", "source")

    def __init__(self, condition: BoolExpr, source: tuple[Frame, ...]) -> None:
        self.condition = condition
        self.source = source


class ShapeEnv:
    """Symbols with example values; implements the protocol that SymInt asks."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.guards: dict[BoolExpr, ShapeGuard] = {}
        self._by_value: dict[int, Expr] = {}
        self.frozen = False

    def size(self, value: int) -> Expr:
        """The symbol of a dynamic size; equal sizes share one (and a guard holds them equal)."""
        known = self._by_value.get(value)
        if known is None:
            name = f"s{len(self._by_value)}"
            known = self._by_value[value] = symbol(name, lower=MIN_SYMBOLIC_SIZE)
            self.values[name] = value
        return known

    def fresh(self, name: str, hint: int, lower: int = 0) -> Expr:
        """A symbol that is no size (a seed, a call number)."""
        self.values[name] = hint
        return symbol(name, lower=lower)

    def sym_int(self, expr: Expr) -> SymInt:
        """``expr`` as an int-like that asks this environment."""
        return SymInt(expr, self)

    def evaluate(self, condition: BoolExpr) -> bool:
        """The truth of ``condition`` for the example, remembered as a guard."""
        holds = bool(condition.evaluate(self.values))
        if not self.frozen:
            assumed = condition if holds else not_(condition)
            if isinstance(assumed, BoolExpr) and assumed not in self.guards:
                self.guards[assumed] = ShapeGuard(assumed, user_stack())
        return holds

    def specialize(self, expr: Expr) -> int:
        """The value of ``expr`` for the example, now fixed by a guard."""
        value = expr.evaluate(self.values)
        condition = eq(expr, value)
        if not isinstance(condition, bool):
            self.evaluate(condition)
        return int(value)

    def hint(self, expr: Expr) -> int:
        """The value of ``expr`` for the example; no guard."""
        return int(expr.evaluate(self.values))
