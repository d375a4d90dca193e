"""Matrix products: samples folded into the rows, or into the batch of `bmm`."""

from __future__ import annotations

from typing import Any

from plait.base.errors import ShapeMismatch, check
from plait.tensor.tensor import Tensor
from plait.transforms.batching.call import Call, Rule, run

__all__ = ["RULES"]


def _mm(call: Call) -> tuple[Any, Any]:
    _require_ranks(call, (2, 2))
    return _product(call, 0, 1), 0


def _product(call: Call, left: int, right: int) -> Tensor:
    """Samples of ``left @ right``, for matrices."""
    if call.is_batched(right):
        product: Tensor = run("bmm", call.batched(left), call.front(right))
        return product
    a, b = call.front(left), call.args[right]
    rows: Tensor = run("mm", run("reshape", a, (a.shape[0] * a.shape[1], a.shape[2])), b)
    unfolded: Tensor = run("view", rows, (a.shape[0], a.shape[1], b.shape[1]))
    return unfolded


def _bmm(call: Call) -> tuple[Any, Any]:
    _require_ranks(call, (3, 3))
    a, b = call.batched(0), call.batched(1)
    size, count = a.shape[0], a.shape[1]
    _same_batch(call, a, b)
    folded = run("bmm", _folded(a), _folded(b))
    return run("view", folded, (size, count, *folded.shape[1:])), 0


def _folded(t: Tensor) -> Tensor:
    made: Tensor = run("reshape", t, (t.shape[0] * t.shape[1], *t.shape[2:]))
    return made


def _same_batch(call: Call, a: Tensor, b: Tensor) -> None:
    check(
        a.shape[1] == b.shape[1],
        ShapeMismatch,
        lambda: (
            f"{call.op.name}: the arguments have different batch sizes; got {a.shape[1]} and "
            f"{b.shape[1]}; expected equal ones."
        ),
    )


def _require_ranks(call: Call, ranks: tuple[int, ...], first: int = 0) -> None:
    for i, rank in enumerate(ranks, first):
        if call.rank(i) != rank:
            raise ShapeMismatch(
                f"{call.op.name}: argument {call.op.schema.positional[i].name!r} has "
                f"{call.rank(i)} dims; expected {rank}."
            )


def _addmm(call: Call) -> tuple[Any, Any]:
    _require_ranks(call, (2, 2), 1)
    beta, alpha = call.kwargs["beta"], call.kwargs["alpha"]
    if call.args[0].dtype.is_integral:
        beta, alpha = int(beta), int(alpha)
    product = _product(call, 1, 2) if _any_batched(call, 1, 2) else None
    if product is None:
        product = run("mm", call.args[1], call.args[2])
        product = run("unsqueeze", product, 0)
    if alpha == 0:
        product = run("zeros_like", product)  # which drops NaN, as the operator does
    elif alpha != 1:
        product = run("mul.Scalar", product, alpha)
    if beta == 0:
        return run("expand", product, (call.size, *product.shape[1:])), 0
    added = call.front(0)
    if call.is_batched(0):
        while added.ndim < 3:
            added = run("unsqueeze", added, 1)
    if beta != 1:
        added = run("mul.Scalar", added, beta)
    return run("add.Tensor", added, product), 0


def _any_batched(call: Call, *places: int) -> bool:
    return any(call.is_batched(i) for i in places)


RULES: dict[str, Rule] = {"aten::mm": _mm, "aten::bmm": _bmm, "aten::addmm": _addmm}
