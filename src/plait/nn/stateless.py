"""Calling a module with parameters handed in, so that a training step can be one pure function.

Owns the exchange of a module's tensors for the time of a call; must not know what the call does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from plait.base.errors import InvalidArgument, check
from plait.nn.module import Module
from plait.tensor.tensor import Tensor

__all__ = ["functional_call"]

# A module's tables are shared between threads: one exchange at a time.
_lock = threading.RLock()


def functional_call(
    module: Module,
    params_and_buffers: Mapping[str, Tensor],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Call `module` with other tensors in the place of its parameters and buffers.

    Names are those of `named_parameters()` and `named_buffers()`; those not named stay the
    module's own. A tensor that several modules share is exchanged everywhere, so one of its names
    is enough; two tensors for it are refused (`state_dict()` has it under every name,
    `named_parameters()` under one). `args` is the tuple
    of positional arguments, or the only one. The module is as before afterwards, whatever happens.

    >>> import plait
    >>> layer = plait.nn.Linear(3, 2)
    >>> zeros = {name: plait.zeros_like(p) for name, p in layer.named_parameters()}
    >>> plait.nn.functional_call(layer, zeros, plait.ones(1, 3)).tolist()
    [[0.0, 0.0]]
    """
    arguments = args if isinstance(args, tuple) else (args,)
    with _exchanged(module, params_and_buffers):
        return module(*arguments, **(kwargs or {}))


@contextmanager
def _exchanged(module: Module, given: Mapping[str, Tensor]) -> Iterator[None]:
    with _lock:
        places = _places(module)
        unknown = [name for name in given if name not in places]
        check(
            not unknown,
            InvalidArgument,
            lambda: (
                f"functional_call: argument 'params_and_buffers' names {unknown}, which "
                f"{type(module).__name__} has not; expected names among {list(places)}."
            ),
        )
        _check_shared(places, given)
        saved: list[tuple[dict[str, Any], str, Tensor]] = []
        try:
            for name, tensor in given.items():
                for table, key in places[name]:
                    saved.append((table, key, table[key]))
                    table[key] = tensor
            yield
        finally:
            for table, key, tensor in reversed(saved):
                table[key] = tensor


def _places(module: Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Qualified name -> every (table, key) that holds that tensor."""
    by_tensor: dict[int, list[tuple[dict[str, Any], str]]] = {}
    places: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for path, owner in module._walk(""):
        for table in (owner._parameters, owner._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    held = by_tensor.setdefault(id(tensor), [])
                    held.append((table, key))
                    places[f"{path}.{key}" if path else key] = held
    return places


def _check_shared(
    places: Mapping[str, list[tuple[dict[str, Any], str]]], given: Mapping[str, Tensor]
) -> None:
    """Names of one tensor must not be given different ones."""
    first: dict[int, str] = {}
    for name, tensor in given.items():
        other = first.setdefault(id(places[name]), name)
        check(
            given[other] is tensor,
            InvalidArgument,
            lambda name=name, other=other: (  # type: ignore[misc]
                f"functional_call: argument 'params_and_buffers' gives two tensors for the one "
                f"that is shared as {other!r} and {name!r}; expected one. Give it under one name, "
                "as dict(module.named_parameters()) does."
            ),
        )
