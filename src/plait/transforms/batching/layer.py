"""The BATCHED key: peels the innermost level off the arguments and runs the operator's rule.

In this order: a rule given with the operator (`op.batching`), the table of rules by name, the rule
of the operator's kind, a composite body or decomposition, and last one call per sample, which is
recorded as a fallback. What a rule issues is seen by the outer levels only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from plait.base import log
from plait.base.errors import InplaceError, InvalidArgument, PlaitError, check
from plait.dispatch.dispatcher import lookup, register_fallback
from plait.dispatch.keys import DispatchKey
from plait.dispatch.operator import Overload
from plait.dispatch.python_key import tensors_in
from plait.dispatch.state import tls
from plait.dispatch.tags import Tag
from plait.tensor.promotion import can_cast
from plait.tensor.tensor import Tensor
from plait.transforms.autocast import kernel_of
from plait.transforms.batching import (
    creation,
    elementwise,
    indexing,
    matmul,
    normalize,
    randoms,
    reductions,
    views,
)
from plait.transforms.batching.call import Call, Rule, slices
from plait.transforms.batching.tensor import (
    BatchedTensor,
    Level,
    add_level,
    check_running,
    lowered_to,
)

__all__ = ["LOOPED", "RULES", "way_of"]

RULES: dict[str, Rule] = {
    **views.RULES,
    **reductions.RULES,
    **matmul.RULES,
    **indexing.RULES,
    **normalize.RULES,
    **creation.RULES,
    **randoms.RULES,
}
"""Batching rules by the name of the operator."""

LOOPED: dict[str, str] = {}
"""Built-in operators that run once per sample, each with the reason."""


def way_of(op: Overload) -> str:
    """How ``op`` is batched: rule, body, kind, in place, out, decomposition, unbatched, or loop."""
    if op.batching is not None or op.qualname in RULES:
        return "rule"
    if op.is_composite:
        return "body"
    if not any(a.type.is_tensor_like for a in op.schema.arguments):
        return "unbatched"
    if any(a.is_write for a in op.schema.kwonly):
        return "out" if _is_variant(op) else "loop"
    if op.kind == "elementwise" or (op.functional is not None and _is_elementwise(op)):
        return "elementwise"
    if op.schema.is_mutable:
        return "in place" if _is_variant(op) else "loop"
    return "decomposition" if op.decomposition is not None else "loop"


def _is_elementwise(op: Overload) -> bool:
    return op.functional is not None and op.functional.kind == "elementwise"


def _is_variant(op: Overload) -> bool:
    """Whether ``op`` writes the result of another operator.

    The functional form of a user's operator returns more than the operator itself.
    """
    functional = op.functional
    return functional is not None and len(functional.schema.returns) == len(op.schema.returns)


# ---------------------------------------------------------------- the fallback of the key


def _batched_fallback(op: Overload, lower: int) -> Callable[..., Any] | None:
    casting = kernel_of(op) if lower & DispatchKey.AUTOCAST_CPU.mask else None
    if casting is not None:
        return casting  # casts, and comes back here: what a rule issues is not cast again
    way = way_of(op)
    if way == "body":
        return op.composite_body
    if way == "unbatched":
        return None
    if Tag.NONDETERMINISTIC_SEEDED in op.tags:
        return functools.partial(_run_random, op)
    return functools.partial(_run, op, _WAYS[way])


def _innermost(args: Iterable[Any]) -> Level | None:
    """The innermost level of the batched tensors among ``args``."""
    found: Level | None = None
    for t in tensors_in(args):
        if isinstance(t, BatchedTensor):
            check_running(t)
            if found is None or t.level.number > found.number:
                found = t.level
    return found


def _run(op: Overload, way: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    level = _innermost((*args, *kwargs.values()))
    if level is None:
        with lowered_to(0):
            return op.call(*args, **kwargs)
    try:
        return way(op, level, args, kwargs)
    except PlaitError as error:
        _note_samples(error, level)
        raise


def _note_samples(error: PlaitError, level: Level) -> None:
    """Say, once for each level, that shapes in the message may hold its samples."""
    note = (
        f"Inside vmap level {level.number}: shapes may begin with its {level.batch_size} samples."
    )
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _run_random(op: Overload, *args: Any, **kwargs: Any) -> Any:
    """A random operator concerns the innermost vmap, whether its arguments are batched or not."""
    found = _innermost((*args, *kwargs.values()))
    level = tls.vmap_levels[-1] if tls.vmap_levels else found
    if level is None:
        return op.call(*args, **kwargs)
    randoms.check_allowed(op, level)
    return _by_rule(op, level, args, kwargs)


def _by_rule(op: Overload, level: Level, args: Any, kwargs: Any) -> Any:
    call = Call(op, level, args, kwargs)
    with lowered_to(level.number):
        if op.batching is not None:
            out, out_dims = op.batching(level, call.in_dims, *call.args, **call.kwargs)
        else:
            out, out_dims = RULES[op.qualname](call)
    return _result(call, out, out_dims)


def _by_kind(op: Overload, level: Level, args: Any, kwargs: Any) -> Any:
    call = Call(op, level, args, kwargs)
    with lowered_to(level.number):
        out, out_dims = elementwise.elementwise(call)
    return _result(call, out, out_dims)


def _by_decomposition(op: Overload, level: Level, args: Any, kwargs: Any) -> Any:
    assert op.decomposition is not None
    return op.decomposition(*args, **kwargs)


def _in_place(op: Overload, level: Level, args: Any, kwargs: Any) -> Any:
    """The functional form, and its result copied into the target."""
    target = args[0]
    check_target(op, level, target)
    assert op.functional is not None
    source = lookup("aten::clone").call(target) if target._requires_grad else target
    _write(op, target, op.functional.call(source, *args[1:], **kwargs))
    return target


def _out(op: Overload, level: Level, args: Any, kwargs: Any) -> Any:
    functional = op.functional
    assert functional is not None
    rest = dict(kwargs)
    target = rest.pop("out")
    check_target(op, level, target)
    result = functional.call(*args, **rest)
    if tuple(result.shape) != tuple(target.shape):
        raise InvalidArgument(
            f"{op.qualname}: inside vmap, argument 'out' cannot be resized; got shape "
            f"{tuple(target.shape)}; expected {tuple(result.shape)}."
        )
    _write(op, target, result)
    return target


def _write(op: Overload, target: Tensor, result: Tensor) -> None:
    check(
        can_cast(result._dtype, target._dtype),
        InplaceError,
        lambda: (
            f"{op.qualname}: the result's type can't be cast to the desired output type; got a "
            f"result of {result._dtype}; expected one that fits {target._dtype}."
        ),
    )
    lookup("aten::copy_").call(target, result)


def check_target(op: Overload, level: Level, target: Any) -> None:
    """Raise InplaceError if ``target`` has no samples of its own at ``level``."""
    if not (isinstance(target, BatchedTensor) and target.level is level):
        raise InplaceError(elementwise.unbatched_target(op))


def _loop(op: Overload, level: Level, args: Any, kwargs: Any) -> Any:
    """One call per sample, and the results stacked."""
    call = Call(op, level, args, kwargs)
    log.record(
        "fallback",
        f"vmap: {op.qualname} has no batching rule and no decomposition; it runs once per sample",
        operator=op.qualname,
        samples=int(level.batch_size),
    )
    written = {a.name for a in op.schema.arguments if a.is_write}
    for name, value in op.bind(args, kwargs).items():
        if name in written:
            check_target(op, level, value)
    with lowered_to(level.number):
        found = [op.call(*a, **k) for a, k in slices(call)]
    if not found:
        raise InvalidArgument(
            f"{op.qualname}: vmap runs this operator once per sample; got a batch of size 0; "
            "expected at least one sample, or a batching rule for the operator."
        )
    if written:
        return _written(op, args, kwargs)
    return _stacked(found, level)


def _written(op: Overload, args: Any, kwargs: Any) -> Any:
    """What an operator that writes its arguments returns: those arguments."""
    if not op.schema.returns:
        return None
    named = op.bind(args, kwargs)
    results = tuple([named[name] for name in op.schema.mutated_names])
    return results[0] if len(op.schema.returns) == 1 else results[: len(op.schema.returns)]


def _stacked(found: list[Any], level: Level) -> Any:
    first = found[0]
    if isinstance(first, tuple | list):
        return tuple([_stacked(list(column), level) for column in zip(*found, strict=True)])
    if not isinstance(first, Tensor):
        return first
    with lowered_to(level.number):
        stacked = lookup("aten::stack").call(found, 0)
    return add_level(stacked, 0, level)


def _result(call: Call, out: Any, out_dims: Any) -> Any:
    """The results of a rule, as batched tensors; of an operator that writes, its arguments."""
    if call.op.schema.is_mutable:
        return _written(call.op, call.outer_args, call.outer_kwargs)
    if isinstance(out, tuple | list):
        dims = out_dims if isinstance(out_dims, tuple | list) else (out_dims,) * len(out)
        return tuple([_result_of(call, t, d) for t, d in zip(out, dims, strict=True)])
    return _result_of(call, out, out_dims)


def _result_of(call: Call, t: Any, dim: Any) -> Any:
    if isinstance(t, tuple | list):
        return _result(call, t, dim)
    if dim is None or not isinstance(t, Tensor):
        return t
    return add_level(t, int(dim) % t.ndim, call.level)


_WAYS = {
    "rule": _by_rule,
    "elementwise": _by_kind,
    "decomposition": _by_decomposition,
    "in place": _in_place,
    "out": _out,
    "loop": _loop,
}
register_fallback(DispatchKey.BATCHED, _batched_fallback)
