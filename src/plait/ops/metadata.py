"""Running an operator on metadata alone: shape rules and view rules instead of kernels.

Used by fakes (a mode of the compiler) and, as the fallback of the Meta key, by tensors on the
"meta" device, which have shape, dtype and strides but no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plait.base.errors import DataDependentError, MissingKernel
from plait.dispatch.dispatcher import register_fallback
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.tags import Tag
from plait.tensor.dtype import DType
from plait.tensor.layout import Layout, TensorMeta
from plait.tensor.tensor import Tensor, make_fake

__all__ = ["run_on_metadata", "without_rule"]


def run_on_metadata(
    op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any], cls: type[Tensor] = Tensor
) -> Any:
    """What ``op`` would return, as tensors of class ``cls`` without memory.

    A view shares the storage of its input, so that aliasing shows; an in-place operator returns its
    argument. Raises what the shape rule raises, MissingKernel if there is none.
    """
    if op.view_rule is not None:
        return _view(op, args, kwargs, cls)
    if op.shape_rule is None:
        raise without_rule(op)
    metas = op.shape_rule(*args, **kwargs)
    if op.schema.is_mutable:
        return _written(op, args, kwargs)
    if isinstance(metas, TensorMeta):
        return make_fake(metas, cls=cls)
    return tuple([make_fake(m, cls=cls) for m in metas])


def without_rule(op: Overload) -> Exception:
    """Why an operator without a shape rule cannot run on metadata."""
    if Tag.DYNAMIC_OUTPUT_SHAPE in op.tags:
        return DataDependentError(
            f"{op.qualname}: the shape of its result depends on data, which metadata have not; "
            "expected a fake that allocates a size with new_dynamic_size()."
        )
    return MissingKernel(
        f"{op.qualname}: has no shape rule, so it cannot run on metadata; give it "
        "one (for a user's operator: register_fake)."
    )


def _written(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments that an in-place or out operator returns, in the order of its schema."""
    named = op.bind(args, kwargs)
    written = tuple(named[name] for name in op.schema.mutated_names)
    return written[0] if len(op.schema.returns) == 1 else written


def _view(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any], cls: type[Tensor]) -> Any:
    metas = None if op.shape_rule is None else op.shape_rule(*args, **kwargs)
    source: Tensor = next(tensors_in(args))
    layout = Layout(source.shape, source.stride(), source.storage_offset())
    assert op.view_rule is not None
    layouts = op.view_rule(layout, *args[1:], **kwargs)
    if isinstance(layouts, Layout):
        dtype = metas.dtype if isinstance(metas, TensorMeta) else source.dtype
        return _view_of(source, layouts, dtype, cls)
    return tuple([_view_of(source, one, source.dtype, cls) for one in layouts])


def _view_of(source: Tensor, layout: Layout, dtype: DType, cls: type[Tensor]) -> Tensor:
    meta = TensorMeta(layout.shape, dtype, source.device, layout.strides)
    return make_fake(meta, storage=source.storage, cls=cls, offset=layout.offset)


def _meta_kernel(op: Overload, lower: int) -> Callable[..., Any] | None:
    """The kernel of ``op`` for tensors on the meta device."""
    if op.shape_rule is None:
        return None

    def call(*args: Any, **kwargs: Any) -> Any:
        return run_on_metadata(op, args, kwargs)

    return call


register_fallback(DispatchKey.META, _meta_kernel)
