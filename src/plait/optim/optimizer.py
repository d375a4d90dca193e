"""`Optimizer`: one update rule, called as a pure function or as an eager step.

Owns how trees of parameters, gradients and state go together; the rules are in the subclasses.
State is a tree of tensors only, the step count among them, so that a compiled training step takes
it as inputs and needs no new capture from one step to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import optree

from plait.autograd.grad_mode import no_grad
from plait.base.epoch import module_changes
from plait.base.errors import ArgumentTypeError, AutogradError, InvalidArgument, check
from plait.ops import aten
from plait.tensor.dtype import float32
from plait.tensor.tensor import Tensor

__all__ = ["Optimizer"]

Slots = dict[str, list[Tensor]]


class Optimizer:
    """Base of the optimisers. Give `params` for the eager use, leave it out for the functional one.

    Functional: `state = optimizer.init(params)`, then
    `params, state = optimizer.update(params, grads, state)`; all three are trees of one structure.
    Eager: `loss.backward(); optimizer.step(); optimizer.zero_grad()`.
    """

    # No parameters of its own, but seen by capture as a module is: by its settings.
    _parameters: ClassVar[dict[str, Tensor]] = {}
    _buffers: ClassVar[dict[str, Tensor]] = {}
    _modules: ClassVar[dict[str, Any]] = {}

    slot_names: tuple[str, ...] = ()  # tensors kept for each parameter
    counts_steps: bool = False

    def __init__(self, params: Iterable[Tensor] | None = None) -> None:
        self.params = None if params is None else list(params)
        if self.params is not None:
            self._check_params(self.params)
        self._state: dict[str, Any] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        module_changes.advance()

    def _check_params(self, params: list[Tensor]) -> None:
        name = type(self).__name__
        check(bool(params), InvalidArgument, lambda: f"{name}: argument 'params' is empty.")
        for position, param in enumerate(params):
            check(
                isinstance(param, Tensor),
                ArgumentTypeError,
                lambda param=param, position=position: (  # type: ignore[misc]
                    f"{name}: argument 'params' holds at {position} a {type(param).__name__}; "
                    "expected tensors. Pass module.parameters()."
                ),
            )
            check(
                param.is_leaf,
                InvalidArgument,
                lambda position=position: (  # type: ignore[misc]
                    f"{name}: argument 'params' holds at {position} a computed tensor; expected a "
                    "leaf, which is what can be optimised."
                ),
            )

    # ------------------------------------------------------------ functional

    def init(self, params: Any) -> dict[str, Any]:
        """The state before the first step: for each slot a tree of zeros shaped like `params`."""
        with no_grad():
            state: dict[str, Any] = {
                name: optree.tree_map(lambda p: p.detach() * 0, params) for name in self.slot_names
            }
            if self.counts_steps:
                state["step"] = aten.zeros.default((), dtype=float32)
        return state

    def update(self, params: Any, grads: Any, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """New parameters and new state; nothing is modified. Trees of one structure."""
        leaves, structure = optree.tree_flatten(params)
        grad_leaves = self._flatten_like(structure, grads, "grads")
        slots = {
            n: self._flatten_like(structure, state[n], f"state[{n!r}]") for n in self.slot_names
        }
        with no_grad():
            step = state["step"] + 1 if self.counts_steps else None
            new_leaves, new_slots = self.rule(leaves, grad_leaves, slots, step)
        new_state: dict[str, Any] = {
            name: optree.tree_unflatten(structure, values) for name, values in new_slots.items()
        }
        if step is not None:
            new_state["step"] = step
        return optree.tree_unflatten(structure, new_leaves), new_state

    def _flatten_like(self, structure: Any, tree: Any, what: str) -> list[Tensor]:
        try:
            leaves: list[Tensor] = structure.flatten_up_to(tree)
        except ValueError as error:
            raise InvalidArgument(
                f"{type(self).__name__}.update: argument '{what}' is not of the structure of "
                f"'params'; {error}"
            ) from error
        return leaves

    def rule(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        slots: Slots,
        step: Tensor | None,
    ) -> tuple[list[Tensor], Slots]:
        """The update of all parameters, in plain operators; `step` counts from 1."""
        raise InvalidArgument(f"{type(self).__name__}: the class does not define rule().")

    # ------------------------------------------------------------ eager

    def _own_params(self, what: str) -> list[Tensor]:
        if self.params is None:
            raise AutogradError(
                f"{type(self).__name__}.{what}: the optimiser was made without parameters; pass "
                "them to the constructor, or use update(params, grads, state)."
            )
        return self.params

    def step(self) -> None:
        """Update every parameter that has a gradient, in place; the others are left alone.

        The count of steps is the optimiser's, one for all parameters.
        """
        params = self._own_params("step")
        if self._state is None:
            self._state = self.init(params)
        state = self._state
        active = [i for i, p in enumerate(params) if p.grad is not None]
        chosen = {name: [state[name][i] for i in active] for name in self.slot_names}
        if self.counts_steps:
            chosen["step"] = state["step"]
        grads = [params[i].grad for i in active]
        new_params, new_state = self.update([params[i] for i in active], grads, chosen)
        with no_grad():
            for i, value in zip(active, new_params):
                params[i].copy_(value)
        for name in self.slot_names:
            for i, value in zip(active, new_state[name]):
                state[name][i] = value
        if self.counts_steps:
            state["step"] = new_state["step"]

    def zero_grad(self) -> None:
        """Forget the gradients of the parameters."""
        for param in self._own_params("zero_grad"):
            param.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The eager state: slot name -> tensors in the order of the parameters, and the step."""
        if self._state is None:
            self._state = self.init(self._own_params("state_dict"))
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""
        names = {*self.slot_names, *(["step"] if self.counts_steps else [])}
        check(
            set(state) == names,
            InvalidArgument,
            lambda: (
                f"{type(self).__name__}.load_state_dict: argument 'state' has names "
                f"{sorted(state)}; expected {sorted(names)}."
            ),
        )
        self._state = {k: list(v) if isinstance(v, list) else v for k, v in state.items()}


def check_not_negative(optimizer: str, **values: float) -> None:
    """Raise InvalidArgument for the first negative value; tensors are taken as they are."""
    for name, value in values.items():
        check(
            isinstance(value, Tensor) or value >= 0,
            InvalidArgument,
            lambda name=name, value=value: (  # type: ignore[misc]
                f"{optimizer}: argument {name!r} is negative; got {value}; expected {name} >= 0."
            ),
        )
