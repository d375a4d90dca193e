"""AdamW: adaptive moments with decoupled weight decay (Loshchilov and Hutter, 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from plait.base.errors import InvalidArgument, check
from plait.ops import aten
from plait.optim.optimizer import Optimizer, Slots, check_not_negative
from plait.tensor.dtype import DType
from plait.tensor.tensor import Tensor

__all__ = ["AdamW"]


class AdamW(Optimizer):
    """p <- p - lr * (weight_decay * p + m / (sqrt(v) + eps)), m and v corrected for their start.

    m and v are running means of the gradient and of its square, with weights `betas`.
    """

    slot_names = ("mean", "square")
    counts_steps = True

    def __init__(
        self,
        params: Iterable[Tensor] | None = None,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params)
        check_not_negative("AdamW", lr=lr, eps=eps, weight_decay=weight_decay)
        check(
            len(betas) == 2 and all(0 < beta < 1 for beta in betas),
            InvalidArgument,
            lambda: f"AdamW: argument 'betas'; got {betas}; expected two numbers between 0 and 1.",
        )
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

    def rule(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        slots: Slots,
        step: Tensor | None,
    ) -> tuple[list[Tensor], Slots]:
        """PyTorch's AdamW, with the bias corrections computed from the step tensor."""
        assert step is not None, "AdamW counts steps"
        corrections: dict[DType, tuple[Tensor, Tensor]] = {}
        results = []
        for p, g, m, v in zip(params, grads, slots["mean"], slots["square"]):
            if p.dtype not in corrections:
                corrections[p.dtype] = self._corrections(step, p.dtype)
            results.append(self._update_one(p, g, m, v, corrections[p.dtype]))
        new_params, means, squares = (
            (list(column) for column in zip(*results)) if results else ([], [], [])
        )
        return new_params, {"mean": means, "square": squares}

    def _corrections(self, step: Tensor, dtype: DType) -> tuple[Tensor, Tensor]:
        """lr / (1 - beta1**step) and sqrt(1 - beta2**step).

        expm1 keeps full precision where beta2**step is near 1, as it is in the first steps.
        """
        count = step if step.dtype is dtype else step.to(dtype)
        first, second = (-aten.expm1.default(count * math.log(beta)) for beta in self.betas)
        return first.reciprocal() * self.lr, second.sqrt()

    def _update_one(
        self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, corrections: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        step_size, root = corrections
        beta1, beta2 = self.betas
        m = m * beta1 + g * (1 - beta1)
        v = v * beta2 + g * g * (1 - beta2)
        decayed = p * (1 - self.lr * self.weight_decay)
        return decayed - m / (v.sqrt() / root + self.eps) * step_size, m, v
