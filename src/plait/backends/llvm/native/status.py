"""What a failed run-time check becomes: from (step, code) to the exception of eager execution.

Generated code reports `step << 32 | code + 1`; must not know what checks mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.backends.llvm.plan import Check, KernelCall, Plan
from plait.base.errors import InternalError

__all__ = ["failure_handler"]


def failure_handler(plan: Plan, raise_check: Callable[[Check], Any]) -> Callable[[int], Any]:
    """The function that an entry calls, with its status, when a check failed; it raises."""

    def fail(status: int) -> Any:
        step = plan.steps[status >> 32]
        code = (status & 0xFFFFFFFF) - 1
        assert isinstance(step, KernelCall)
        raise_check(step.checks[code])
        raise InternalError(
            f"{plan.name}: check {code} of {step.name!r} failed and raised nothing."
        )

    return fail
