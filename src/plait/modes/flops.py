"""`FlopCounter`: multiplications and additions of products, forward and backward.

Counts what PyTorch's ``torch.utils.flop_counter`` counts, by the same formulas: products only, two
operations for a multiply-add. Owns the formulas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from plait.dispatch.operator import Overload
from plait.ir.graph import Frame
from plait.modes.watching import WatchingMode, phase, place

__all__ = ["FORMULAS", "FlopCounter"]


def _mm(a: Any, b: Any, *rest: Any, **options: Any) -> int:
    return 2 * int(a.shape[-2]) * int(a.shape[-1]) * int(b.shape[-1])


def _addmm(addend: Any, a: Any, b: Any, *rest: Any, **options: Any) -> int:
    return _mm(a, b)


def _bmm(a: Any, b: Any, *rest: Any, **options: Any) -> int:
    return int(a.shape[0]) * _mm(a, b)


def _mv(a: Any, b: Any) -> int:
    return 2 * int(a.numel())


def _attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    """Two products: scores, and weights times values. What a mask hides is counted."""
    pairs = _pairs(query, key)
    return 2 * pairs * (int(query.shape[-1]) + int(value.shape[-1]))


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any
) -> int:
    """Five products: the scores again, and one for each of weights, queries, keys, values."""
    return 2 * _pairs(query, key) * (3 * int(query.shape[-1]) + 2 * int(value.shape[-1]))


def _pairs(query: Any, key: Any) -> int:
    pairs = int(key.shape[-2])
    for size in query.shape[:-1]:
        pairs *= int(size)
    return pairs


FORMULAS: Mapping[str, Callable[..., int]] = {
    "aten::mm": _mm,
    "aten::addmm": _addmm,
    "aten::bmm": _bmm,
    "aten::mv": _mv,
    "aten::dot": _mv,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
"""Operator -> the operations of one call, given its arguments."""


class FlopCounter(WatchingMode):
    """Counts the floating-point operations of products while it is entered.

    ``formulas`` adds operators of your own: a name, and a function of the operator's arguments.

    >>> import plait
    >>> w = plait.ones(3, 4, requires_grad=True)
    >>> with FlopCounter() as counter:
    ...     (plait.ones(2, 3) @ w).sum().backward()
    >>> counter.total, dict(counter.by_phase)
    (96, {'forward': 48, 'backward': 48})
    """

    def __init__(self, formulas: Mapping[str, Callable[..., int]] | None = None) -> None:
        super().__init__()
        self.formulas = {**FORMULAS, **(formulas or {})}
        self.by_operator: Counter[str] = Counter()
        self.by_phase: Counter[str] = Counter()
        self.by_place: Counter[Frame | None] = Counter()

    @property
    def total(self) -> int:
        """All operations counted so far."""
        return self.by_operator.total()

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = op(*args, **kwargs)
        formula = self.formulas.get(op.qualname)
        if formula is not None:
            count = formula(*args, **kwargs)
            self.by_operator[op.qualname] += count
            self.by_phase[phase()] += count
            self.by_place[place()] += count
        return out

    def __str__(self) -> str:
        lines = [f"{self.total} operations of products"]
        lines += [f"  {count:>16} {name}" for name, count in self.by_operator.most_common()]
        for frame, count in self.by_place.most_common():
            where = "unknown" if frame is None else f"{frame[0]}:{frame[1]}"
            lines.append(f"  {count:>16} {where}")
        return "\n".join(lines)
