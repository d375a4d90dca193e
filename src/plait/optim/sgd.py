"""Stochastic gradient descent, with momentum and weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plait.base.errors import InvalidArgument, check
from plait.optim.optimizer import Optimizer, Slots, check_not_negative
from plait.tensor.tensor import Tensor

__all__ = ["SGD"]


class SGD(Optimizer):
    """p <- p - lr * d, where d is the gradient, or its running sum v <- momentum * v + g.

    >>> import plait
    >>> sgd = plait.optim.SGD(lr=0.5)
    >>> params, state = sgd.update([plait.ones(2)], [plait.ones(2)], sgd.init([plait.ones(2)]))
    >>> params[0].tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | None = None,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params)
        check_not_negative("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        check(
            not nesterov or momentum > 0,
            InvalidArgument,
            lambda: f"SGD: argument 'nesterov' needs momentum; got momentum = {momentum}.",
        )
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.slot_names = ("velocity",) if momentum else ()

    def rule(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        slots: Slots,
        step: Tensor | None,
    ) -> tuple[list[Tensor], Slots]:
        """PyTorch's SGD without dampening."""
        if self.weight_decay:
            grads = [g + p * self.weight_decay for p, g in zip(params, grads)]
        directions = list(grads)
        new_slots: Slots = {}
        if self.momentum:
            velocity = [v * self.momentum + g for v, g in zip(slots["velocity"], grads)]
            new_slots["velocity"] = directions = velocity
            if self.nesterov:
                directions = [g + v * self.momentum for g, v in zip(grads, velocity)]
        return [p - d * self.lr for p, d in zip(params, directions)], new_slots
