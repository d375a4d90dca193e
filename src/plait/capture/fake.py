"""Fake tensors: shape, dtype, strides and storage identity without memory.

:class:`FakeMode` answers every operator from its shape rule. A fake that escapes its trace refuses
to work instead of giving wrong answers. Knows nothing of recording.
"""

from __future__ import annotations

from typing import Any

from plait.base.errors import CaptureError, MissingKernel
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import CPU_TENSOR_KEYS
from plait.dispatch.modes import InfraMode, tensors_in
from plait.dispatch.operator import Overload
from plait.tensor.layout import Layout, TensorMeta
from plait.tensor.tensor import Tensor, make_fake

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
    """A fake like ``tensor`` (or ``meta``), with its requires_grad and a storage of its own."""
    fake = make_fake(meta or meta_of(tensor), cls=cls)
    if tensor.requires_grad:
        fake._requires_grad = True
    return fake


class FakeMode(InfraMode):
    """Runs operators on metadata alone: results come from shape rules.

    A view shares the storage of its input, so that aliasing shows; an in-place operator returns its
    argument. ``cls`` is the class of the fakes made.
    """

    slot = "fake_mode"

    def __init__(self, cls: type[Tensor] = FakeTensor) -> None:
        self.cls = cls

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if op.view_rule is not None:
            return self._view(op, args, kwargs)
        rule = op.shape_rule
        if rule is None:
            raise MissingKernel(
                f"{op.qualname}: has no shape rule, so it cannot be traced; give it one (a fake)."
            )
        metas = rule(*args, **kwargs)
        if op.schema.is_mutable:
            return self._written(op, args, kwargs)
        if isinstance(metas, TensorMeta):
            return make_fake(metas, cls=self.cls)
        return tuple([make_fake(m, cls=self.cls) for m in metas])

    def _written(self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments that an in-place or out operator returns, in the order of its schema."""
        named = op.bind(args, kwargs)
        written = tuple(named[name] for name in op.schema.mutated_names)
        return written[0] if len(op.schema.returns) == 1 else written

    def _view(self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if op.shape_rule is not None:
            op.shape_rule(*args, **kwargs)
        source: Tensor = next(tensors_in(args))
        layout = Layout(source.shape, source.stride(), source.storage_offset())
        assert op.view_rule is not None
        layouts = op.view_rule(layout, *args[1:], **kwargs)
        if isinstance(layouts, Layout):
            return self._view_of(source, layouts)
        return tuple([self._view_of(source, one) for one in layouts])

    def _view_of(self, source: Tensor, layout: Layout) -> Tensor:
        meta = TensorMeta(layout.shape, source.dtype, source.device, layout.strides)
        return make_fake(meta, storage=source.storage, cls=self.cls, offset=layout.offset)
