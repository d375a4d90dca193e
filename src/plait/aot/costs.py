"""What saving a value and doing a call again cost, both in bytes moved to and from memory.

Owns sizes and estimates. Must not know the cut or any backend: an operator is judged by its tags,
its kind and its name.

Note [What recomputing costs]. An operator that fuses (pointwise, views, reductions, normalisations,
constants, draws) is done again inside a kernel that runs anyway; that costs arithmetic, which is
told here in bytes that could have been moved meanwhile. Everything else (products, sorts, scatters,
what is not known) is a step of its own. A random operator reaches this place in its explicit form,
a pure function of (seed, call number): doing it again gives the same draws bit for bit, for some
thirty integer operations an element, which is more than reading its mask back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from plait.dispatch.operator import Overload
from plait.dispatch.tags import Tag
from plait.ir.effects import is_impure, is_view
from plait.ir.graph import IntType, Node, Value
from plait.symbolic.expr import Expr

__all__ = ["Sizes", "fuses", "is_draw", "is_free", "node_cost"]

Hint = Callable[[Expr], int]

_FUSING_KINDS = frozenset({"creation", "elementwise", "normalize", "random", "reduction", "view"})
# fmt: off
_FUSING_NAMES = frozenset({
    "cat", "diagonal_scatter", "embedding", "flip", "gather", "index_select", "select_scatter",
    "slice_scatter",
})
_DEAR = frozenset({
    "cos", "cosh", "elu", "erf", "exp", "exp2", "expm1", "log", "log10", "log1p", "log2", "sigmoid",
    "silu", "sin", "sinh", "tanh",
})
_DEAREST = frozenset({
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "digamma", "erfc", "erfinv", "gelu",
    "i0", "lgamma", "logaddexp", "logit", "mish", "pow", "softplus", "tan", "xlogy",
})
# fmt: on
# Arithmetic per byte of what is computed; benchmarks of whole training steps decided them.
CHEAP_COST = 0.125
DEAR_COST = 0.75
DEAREST_COST = 1.5
NORMALIZE_COST = 4.0  # passes over rows, and statistics that split kernels
DRAW_COST = 2.0
PRODUCT_COST = 0.25  # of one multiplication and addition
OTHER_COST = 64.0  # of a step that neither fuses nor is a product


def _name(op: Overload) -> str:
    return op.qualname.partition("::")[2].partition(".")[0]


@functools.lru_cache(maxsize=4096)
def fuses(op: Overload) -> bool:
    """Whether doing ``op`` again can be part of a kernel that runs anyway."""
    if Tag.POINTWISE in op.tags or Tag.REDUCTION in op.tags or is_view(op):
        return True
    return op.kind in _FUSING_KINDS or _name(op) in _FUSING_NAMES


def is_free(node: Node) -> bool:
    """Whether doing ``node`` again costs nothing: a view, or a constant."""
    return is_view(node.op) or (not node.inputs() and not is_impure(node.op))


def is_draw(node: Node) -> bool:
    """Whether ``node`` is a random operator in its explicit form."""
    return node.op.kind == "random" and not is_impure(node.op)


class Sizes:
    """Bytes of values; symbolic sizes count as in the example."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint
        self._bytes: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        """Bytes of ``value``; an int counts as nothing."""
        known = self._bytes.get(value)
        if known is None:
            known = self._bytes[value] = self._measure(value)
        return known

    def _measure(self, value: Value) -> int:
        if isinstance(value.type, IntType):
            return 0
        return self.numel(value) * value.type.dtype.itemsize

    def numel(self, value: Value) -> int:
        """Number of elements of ``value``."""
        if isinstance(value.type, IntType):
            return 1
        count = 1
        for size in value.type.shape:
            count *= self._hint(size) if isinstance(size, Expr) else int(size)
        return count

    def last(self, value: Value, dim: int) -> int:
        """Size of ``value`` at ``dim``."""
        assert not isinstance(value.type, IntType)
        size = value.type.shape[dim]
        return self._hint(size) if isinstance(size, Expr) else int(size)

    def computed(self, value: Value) -> int:
        """Bytes of ``value`` in the type that arithmetic is done in: no smaller than float32."""
        itemsize = 8 if isinstance(value.type, IntType) else value.type.dtype.itemsize
        return self.numel(value) * max(itemsize, 4)


def node_cost(node: Node, sizes: Sizes) -> float:
    """The time that ``node`` takes where it is done again, in bytes moved."""
    if is_free(node) and not is_draw(node):
        return 0.0
    inputs = [v for v in dict.fromkeys(node.inputs()) if getattr(v.type, "shape", ())]
    made = sizes.computed(node.results[0])
    if is_draw(node):
        return DRAW_COST * made
    if node.op.kind == "normalize":
        return NORMALIZE_COST * max([made, *map(sizes.computed, inputs)])
    if Tag.REDUCTION in node.op.tags:
        return CHEAP_COST * max([made, *map(sizes.computed, inputs)])
    if fuses(node.op):
        return made * _arithmetic(_name(node.op))
    if node.op.kind == "matmul" and len(inputs) >= 2:
        return PRODUCT_COST * made * sizes.last(inputs[-2], -1)
    return OTHER_COST * sum([sizes.of(v) for v in node.results])


def _arithmetic(name: str) -> float:
    if name in _DEAREST:
        return DEAREST_COST
    return DEAR_COST if name in _DEAR else CHEAP_COST
