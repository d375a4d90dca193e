"""`autograd.Function` inside vmap: its own rule, or its two halves mapped.

A function may have a static ``vmap(info, in_dims, *args)``, which returns the results and their
batch dims. Otherwise its forward and its backward are each run on batched tensors, inside a
function of the physical ones: the tape lies below every level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.autograd.function import Context, Function
from plait.base.errors import TransformError
from plait.dispatch.dispatcher import lookup
from plait.dispatch.state import tls
from plait.tensor.tensor import Tensor
from plait.transforms.batching.tensor import (
    BatchedTensor,
    Level,
    add_level,
    check_running,
    entered,
    lowered_to,
    move_dim,
    remove_level,
)

__all__ = ["apply_function"]

_Dims = list[int | None]


def apply_function(cls: type[Function], args: Sequence[Any]) -> Any:
    """``cls.apply(*args)``, where an argument is batched."""
    level = max((a.level for a in args if _is_batched(a)), key=lambda level: level.number)
    physical, in_dims = _peeled(args, level)
    rule = getattr(cls, "vmap", None)
    with lowered_to(level.number):
        if rule is not None:
            out, out_dims = rule(level, tuple(in_dims), *physical)
        else:
            mapped = _mapped(cls, level, in_dims)
            out, out_dims = mapped.apply(*physical), mapped.out_dims
    if not isinstance(out, tuple | list):
        return _wrapped(out, out_dims[0] if isinstance(out_dims, list) else out_dims, level)
    dims = out_dims if isinstance(out_dims, tuple | list) else (out_dims,) * len(out)
    return tuple([_wrapped(t, d, level) for t, d in zip(out, dims, strict=True)])


def _is_batched(value: Any) -> bool:
    if not isinstance(value, BatchedTensor):
        return False
    check_running(value)
    return True


def _peeled(values: Sequence[Any], level: Level) -> tuple[list[Any], _Dims]:
    """(values without ``level``, their batch dims)."""
    at = [isinstance(v, BatchedTensor) and v.level is level for v in values]
    return (
        [v.value if b else v for v, b in zip(values, at, strict=True)],
        [v.bdim if b else None for v, b in zip(values, at, strict=True)],
    )


def _wrapped(value: Any, dim: int | None, level: Level) -> Any:
    if dim is None or not isinstance(value, Tensor):
        return value
    return add_level(value, dim % value.ndim, level)


def _all_wrapped(values: Sequence[Any], dims: Sequence[int | None], level: Level) -> list[Any]:
    return [_wrapped(v, d, level) for v, d in zip(values, dims, strict=True)]


def _mapped(cls: type[Function], outer: Level, in_dims: _Dims) -> Any:
    """A Function of physical tensors that runs both halves of ``cls`` on batched ones."""

    def inside() -> Level:
        return Level(len(tls.vmap_levels) + 1, outer.batch_size, outer.randomness)

    class Mapped(Function):
        out_dims: _Dims

        @staticmethod
        def forward(ctx: Context, *args: Any) -> Any:
            inner: Any = Context(cls, ctx.needs_input_grad)
            with entered(level := inside()):
                given = _all_wrapped(args, in_dims, level)
                if cls.setup_context is not None:
                    output = cls.forward(*given)
                    cls.setup_context(inner, tuple(given), output)
                else:
                    output = cls.forward(inner, *given)
            if inner._dirty:
                raise TransformError(
                    f"{cls.__name__}: writes an input (mark_dirty) inside vmap; expected a "
                    "function that returns new tensors, or one with a static vmap rule."
                )
            is_single = not isinstance(output, tuple | list)
            results = [output] if is_single else list(output)
            found, Mapped.out_dims = _peeled(results, level)
            fixed = {id(t) for t in inner._non_differentiable}
            ctx.mark_non_differentiable(
                *[f for f, t in zip(found, results, strict=True) if id(t) in fixed]
            )
            saved, saved_dims = _peeled(inner._to_save, level)
            ctx.save_for_backward(*saved)
            ctx.set_materialize_grads(inner._materialize)
            vars(ctx)["inner"] = (inner, saved_dims, Mapped.out_dims)
            return found[0] if is_single else tuple(found)

        @staticmethod
        def backward(ctx: Context, *grads: Any) -> Any:
            inner, saved_dims, out_dims = vars(ctx)["inner"]
            with entered(level := inside()):
                inner._to_save = tuple(_all_wrapped(ctx.saved_tensors, saved_dims, level))
                found = cls.backward(inner, *_all_wrapped(grads, out_dims, level))
                inner._to_save = ()
            results = found if isinstance(found, tuple | list) else (found,)
            dims = [*in_dims, *[None] * (len(results) - len(in_dims))]
            return tuple([_gradient(g, d, level) for g, d in zip(results, dims, strict=True)])

    Mapped.__name__ = Mapped.__qualname__ = cls.__name__
    return Mapped


def _gradient(g: Any, dim: int | None, level: Level) -> Any:
    """The gradient of a physical argument: of one that all samples share, the sum over them."""
    if not isinstance(g, Tensor):
        return g
    if dim is not None:
        return remove_level(g, level, dim)
    if isinstance(g, BatchedTensor) and g.level is level:
        return lookup("aten::sum.dim_IntList").call(move_dim(g.value, g.bdim, 0), (0,), False)
    return g


Level.apply_function = staticmethod(apply_function)
