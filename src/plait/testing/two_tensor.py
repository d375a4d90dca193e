"""`TwoTensor`: the plainest wrapper subclass, for tests of all that must work with wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.base.errors import ShapeMismatch, check
from plait.dispatch.operator import Overload
from plait.tensor.tensor import Tensor
from plait.tensor.wrapper import WrapperTensor, correct_aliasing, map_tensors

__all__ = ["TwoTensor"]


class TwoTensor(WrapperTensor):
    """Two tensors of equal metadata; every operator runs once on each.

    The inner tensors are ``a`` and ``b``, which may be wrappers themselves. A plain tensor in
    a call takes part in both runs.

    >>> import plait
    >>> TwoTensor(plait.ones(2), plait.zeros(2)) + 1
    TwoTensor(a=tensor([2., 2.]), b=tensor([1., 1.]))
    """

    a: Tensor
    b: Tensor

    def __init__(self, a: Tensor, b: Tensor, *, requires_grad: bool = False) -> None:
        check(
            tuple(a.shape) == tuple(b.shape) and a.dtype is b.dtype,
            ShapeMismatch,
            lambda: (
                f"TwoTensor: the tensors differ; got {tuple(a.shape)}, {a.dtype} and "
                f"{tuple(b.shape)}, {b.dtype}; expected equal sizes and types."
            ),
        )
        super().__init__(
            a.shape,
            dtype=a.dtype,
            strides=a.strides,
            device=a.device,
            requires_grad=requires_grad,
        )
        self.a, self.b = a, b

    def __plait_flatten__(self) -> tuple[Sequence[str], Any]:
        return ("a", "b"), None

    @classmethod
    def __plait_unflatten__(
        cls, inner: dict[str, Tensor], context: Any, shape: Sequence[Any], strides: Sequence[Any]
    ) -> Tensor:
        return cls(inner["a"], inner["b"])

    @classmethod
    def __plait_coerce_tangent__(cls, tangent: Tensor, context: Any) -> Tensor | None:
        return cls(tangent, tangent)

    @classmethod
    def __plait_dispatch__(
        cls, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = (args, kwargs)
        args_a, kwargs_a = map_tensors(lambda t: t.a, given, cls)
        args_b, kwargs_b = map_tensors(lambda t: t.b, given, cls)
        out = _paired(cls, op(*args_a, **kwargs_a), op(*args_b, **kwargs_b))
        return correct_aliasing(op, args, kwargs, out)


def _paired(cls: type[TwoTensor], a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return cls(a, b)
    if isinstance(a, tuple | list):
        return tuple(_paired(cls, x, y) for x, y in zip(a, b, strict=True))
    return a
