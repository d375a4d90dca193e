"""Shape functions of user-defined operators, and sizes that depend on data.

A shape function is written in operators and runs on tensors without memory: fakes while a trace is
running, meta tensors otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from plait.base.errors import (
    DataDependentError,
    DispatchError,
    InvalidArgument,
    RegistrationError,
)
from plait.dispatch.operator import Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.state import tls
from plait.library.kernels import place_of
from plait.symbolic.symint import SymInt
from plait.tensor.tensor import Tensor

__all__ = ["FakeContext", "fake_rule", "get_ctx", "trivial_rule"]


class FakeContext:
    """What a shape function may ask for: a size that only the data will tell."""

    def __init__(self, op: Overload) -> None:
        self.op = op

    def new_dynamic_size(self, *, min: int = 0, max: int | None = None) -> Any:
        """A size in [min, max] that is unknown until the kernel has run.

        InvalidArgument for bounds that are not ints, or min < 0; DataDependentError where no trace
        keeps symbols (on meta tensors, say).
        """
        for name, bound in (("min", min), ("max", max)):
            if isinstance(bound, SymInt) or not isinstance(bound, int | None):
                raise InvalidArgument(
                    f"new_dynamic_size({self.op.qualname}): argument {name!r} is {bound!r}; "
                    "expected an int that is known now."
                )
        if min < 0 or (max is not None and max < min):
            raise InvalidArgument(
                f"new_dynamic_size({self.op.qualname}): got min={min}, max={max}; expected "
                "0 <= min <= max."
            )
        env = tls.shape_env
        if env is None:
            raise DataDependentError(
                f"{self.op.qualname}: the shape of its result depends on data; got a call on "
                "metadata outside of a trace, where no symbol can stand for the size. Call it on "
                "tensors with memory, or inside plait.compile."
            )
        return env.new_unbacked(self.op.qualname, min, max)


def get_ctx() -> FakeContext:
    """The context of the shape function that is running; DispatchError outside of one."""
    if tls.fake_context is None:
        raise DispatchError(
            "get_ctx: no shape function is running; expected a call inside a function given to "
            "register_fake."
        )
    context: FakeContext = tls.fake_context
    return context


@contextmanager
def _running(op: Overload) -> Iterator[None]:
    saved = tls.fake_context
    tls.fake_context = FakeContext(op)
    try:
        yield
    finally:
        tls.fake_context = saved


def fake_rule(op: Overload, fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` as the fake rule of ``op``: run with the context set, its results checked."""
    place = place_of(fn)

    def rule(*args: Any, **kwargs: Any) -> Any:
        with _running(op):
            out = fn(*args, **kwargs)
        returns = op.schema.returns
        if len(returns) == 1:
            wanted = returns[0].type
            if wanted.is_tensor_like and not wanted.is_list and not isinstance(out, Tensor):
                raise RegistrationError(
                    f"{op.qualname}: the fake at {place} returned a {type(out).__name__}; expected "
                    "a Tensor of the result's shape and dtype (plait.empty_like(x), say)."
                )
        elif len(returns) > 1:
            if not isinstance(out, tuple | list) or len(out) != len(returns):
                raise RegistrationError(
                    f"{op.qualname}: the fake at {place} returned {_count(out)}; expected "
                    f"{len(returns)} results."
                )
            out = tuple(out)
        for tensor in tensors_in((out,)):
            if tensor._array is not None:
                raise RegistrationError(
                    f"{op.qualname}: the fake at {place} returned a tensor with memory; expected "
                    "one made from its arguments (x.new_empty(shape), plait.empty_like(x))."
                )
        return out

    rule.__wrapped__ = fn  # type: ignore[attr-defined]  # errors name its place
    return rule


def _count(out: Any) -> str:
    return f"{len(out)} results" if isinstance(out, tuple | list) else f"a {type(out).__name__}"


def trivial_rule(op: Overload) -> Callable[..., Any] | None:
    """The shape function of an operator whose results are arguments, or that has none."""
    schema = op.schema
    if schema.is_mutable and not schema.returns:
        return lambda *args, **kwargs: None
    if schema.returns and all(r.alias is not None and r.alias.is_write for r in schema.returns):

        def written(*args: Any, **kwargs: Any) -> Any:
            named = op.bind(args, kwargs)
            values = tuple(named[name] for name in schema.mutated_names)
            return values[0] if len(schema.returns) == 1 else values

        return written
    return None
