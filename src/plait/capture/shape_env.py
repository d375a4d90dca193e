"""The symbolic shape environment of one trace: symbols, their values now, and assumptions on them.

Every comparison of symbolic sizes that the trace makes is answered from the sizes of the example
and remembered as a guard. Sizes 0 and 1 are never symbolic.

Note [Sizes that depend on data]. A size that only a kernel will tell (`new_unbacked`) has no
example value. What follows from its bounds is answered from them. Whether it is 0 or 1 is answered
"no":
those are asked for broadcasting and contiguity, where the general case is right for any size. Any
other question is an error at the user's line. Each pass over the program (capture, then the joint
trace) meets the same calls in the same order, and gets the same symbols.
"""

from __future__ import annotations

from plait.base.errors import DataDependentError
from plait.capture.source import at_user_line, user_stack
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
        self.unbacked: list[Expr] = []
        self._unbacked_next = 0

    def new_unbacked(self, operator: str, lower: int, upper: int | None) -> SymInt:
        """A size in [lower, upper] that depends on data; Note [Sizes that depend on data]."""
        at, self._unbacked_next = self._unbacked_next, self._unbacked_next + 1
        if at == len(self.unbacked):
            bound = None if upper is None else upper + 1
            self.unbacked.append(symbol(f"u{at}", lower=lower, upper=bound))
        return self.sym_int(self.unbacked[at])

    def restart(self) -> None:
        """Another pass over the program begins."""
        self._unbacked_next = 0

    def _unknown(self, expr: Expr | BoolExpr) -> bool:
        return bool(self.unbacked) and not expr.free_symbols.isdisjoint(self.unbacked)

    def _decide(self, condition: BoolExpr) -> bool:
        """The truth of a condition on sizes that depend on data."""
        for size in self.unbacked:
            for small in (0, 1):
                if condition in (eq(size, small), eq(small, size)):
                    return False
                if condition in (not_(eq(size, small)), not_(eq(small, size))):
                    return True
        raise DataDependentError(
            f"compile: the condition {condition} is on a size that depends on data, and was asked"
            f"{at_user_line()}; expected no question that only the data can answer. Give "
            "new_dynamic_size() bounds that settle it, or compute without asking."
        )

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
        if self._unknown(condition):
            return self._decide(condition)
        holds = bool(condition.evaluate(self.values))
        if not self.frozen:
            assumed = condition if holds else not_(condition)
            if isinstance(assumed, BoolExpr) and assumed not in self.guards:
                self.guards[assumed] = ShapeGuard(assumed, user_stack())
        return holds

    def specialize(self, expr: Expr) -> int:
        """The value of ``expr`` for the example, now fixed by a guard."""
        if self._unknown(expr):
            raise DataDependentError(
                f"compile: the size {expr} depends on data, and was read as a number"
                f"{at_user_line()}; expected it to stay symbolic."
            )
        value = expr.evaluate(self.values)
        condition = eq(expr, value)
        if not isinstance(condition, bool):
            self.evaluate(condition)
        return int(value)

    def hint(self, expr: Expr) -> int:
        """The value of ``expr`` for the example; no guard. Sizes that depend on data count as 2."""
        values = {str(size): MIN_SYMBOLIC_SIZE for size in self.unbacked} | self.values
        return int(expr.evaluate(values))
