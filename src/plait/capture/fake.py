"""Fake tensors: shape, dtype, strides and storage identity without memory.

:class:`FakeMode` answers every operator from its shape rule. A fake that escapes its trace refuses
to work instead of giving wrong answers. Knows nothing of recording.
"""

from __future__ import annotations

from typing import Any

from plait.base.errors import CaptureError
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import CPU_TENSOR_KEYS
from plait.dispatch.modes import InfraMode
from plait.dispatch.operator import Overload
from plait.ops.metadata import run_on_metadata
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor, make_fake
from plait.tensor.wrapper_recipe import pieces_of, recipe_of

__all__ = ["FakeMode", "FakeTensor", "fake_like", "meta_of"]


class FakeTensor(Tensor):
    """A tensor without memory; operators on it need a FakeMode."""

    _keys = CPU_TENSOR_KEYS | DispatchKey.PYTHON.mask

    @classmethod
    def __plait_dispatch__(
        cls, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        raise CaptureError(
            f"{op.qualname}: got a fake tensor outside the trace that made it; expected tensors "
            "with memory. A traced function stored a tensor in a place that outlives it: return it "
            "instead."
        )


def meta_of(tensor: Tensor) -> TensorMeta:
    """Shape, dtype, device and strides of ``tensor``."""
    return tensor.meta


def fake_like(
    tensor: Tensor, cls: type[Tensor] = FakeTensor, meta: TensorMeta | None = None
) -> Tensor:
    """A fake like ``tensor`` (or ``meta``), with its requires_grad and a storage of its own.

    A fake of a wrapper is a wrapper of its class over fakes.
    """
    recipe = recipe_of(tensor)
    if recipe is None:
        fake = make_fake(meta or meta_of(tensor), cls=cls)
    else:
        fake = recipe.rebuild(iter([fake_like(piece, cls) for piece in pieces_of(tensor)]))
    if tensor.requires_grad:
        fake._requires_grad = True
    return fake


class FakeMode(InfraMode):
    """Runs operators on metadata alone; ``cls`` is the class of the fakes made."""

    slot = "fake_mode"

    def __init__(self, cls: type[Tensor] = FakeTensor) -> None:
        self.cls = cls

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if op.fake_rule is not None:
            with self:  # the user's shape function is written in operators
                return op.fake_rule(*args, **kwargs)
        return run_on_metadata(op, args, kwargs, self.cls)
