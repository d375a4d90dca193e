"""What a view remembers: its base, and how to make it again from the base.

Knows tensors only as objects; the tape in the autograd layer gives the fields their meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.tensor.tensor import Tensor

__all__ = ["ViewInfo"]


class ViewInfo:
    """How a tensor came to share its base's memory.

    `base` is never a view itself: chains are flattened, and `steps` replays the whole chain. Each
    step is (operator, arguments with the viewed tensor left out, keyword arguments).

    `creation` says how the view was made, for the errors of in-place writes: "default",
    "no_grad", "multi_output" or "custom_function". `version` is the base's version at which
    `Tensor._grad_fn` of the view was made; the tape makes a new one when it is behind.
    """

    __slots__ = ("base", "creation", "grad_enabled", "steps", "version")

    def __init__(
        self,
        base: Tensor,
        steps: tuple[tuple[Any, tuple[Any, ...], dict[str, Any]], ...],
        *,
        grad_enabled: bool = True,
        creation: str = "default",
        version: int = 0,
    ) -> None:
        self.base = base
        self.steps = steps
        self.grad_enabled = grad_enabled
        self.creation = creation
        self.version = version

    @classmethod
    def of(
        cls,
        viewed: Tensor,
        op: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        grad_enabled: bool = True,
        creation: str = "default",
    ) -> ViewInfo:
        """The record of `op(viewed, *args, **kwargs)`, continuing `viewed`'s own if it has one."""
        step = ((op, args, kwargs),)
        earlier = viewed._view
        if earlier is None:
            return cls(
                viewed,
                step,
                grad_enabled=grad_enabled,
                creation=creation,
                version=viewed._version,
            )
        return cls(
            earlier.base,
            earlier.steps + step,
            grad_enabled=grad_enabled,
            creation=creation if earlier.creation == "default" else earlier.creation,
            version=viewed._version,
        )

    def replay(self, base: Tensor) -> Tensor:
        """Make the same view of another base of the same layout."""
        out = base
        for op, args, kwargs in self.steps:
            out = op(out, *args, **kwargs)
        return out

    def __repr__(self) -> str:
        chain = " -> ".join(str(step[0]) for step in self.steps)
        return f"ViewInfo(base {tuple(self.base.shape)}, {chain})"
