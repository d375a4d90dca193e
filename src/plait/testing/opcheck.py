"""opcheck: does an operator do what its registrations say?

Five tests of one call, each with its own verdict, so that an author learns which registration is
wrong. Runs the operator eagerly and compiled; knows nothing of how operators are defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from plait.autograd.rules import derivatives_of
from plait.base.errors import InvalidArgument, OpCheckError, PlaitError
from plait.capture.fake import FakeMode, FakeTensor, fake_like
from plait.compile import compile
from plait.dispatch.dispatcher import lookup
from plait.dispatch.operator import OperatorPacket, Overload
from plait.dispatch.python_key import tensors_in
from plait.tensor.tensor import Tensor, wrap
from plait.testing.compare import assert_close, meta_of

__all__ = ["TESTS", "opcheck"]

Verdicts = dict[str, Any]


def opcheck(
    op: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    test_utils: str | Iterable[str] | None = None,
    raise_exception: bool = True,
) -> Verdicts:
    """Check one operator (an Overload, a packet, a `CustomOpDef` or a name) on sample arguments.

    - ``test_schema``: nothing is written, and no memory shared, that the schema does not declare;
    - ``test_autograd_registration``: results of inputs that require grad are on the tape, through
      the operator's own formula (say nothing where no input requires grad);
    - ``test_faketensor``: the shape function gives shape, dtype and strides of the real results;
    - ``test_aot_dispatch_dynamic``: results and gradients of ahead-of-time autograd with symbolic
      sizes equal eager's;
    - ``test_compiled``: so do those of the default backend.

    Returns {test: "SUCCESS" or the exception}; with ``raise_exception``, raises OpCheckError at the
    first failure instead. Arguments are copied: a faulty operator does not change the caller's.

    >>> import plait
    >>> from plait import Tensor
    >>> @plait.library.custom_op("docs::half", mutates_args=())
    ... def half(x: Tensor) -> Tensor:
    ...     return x * 0.5
    >>> @half.register_fake
    ... def _(x):
    ...     return x.new_empty((1,))
    >>> verdicts = opcheck(half, (plait.ones(3),), raise_exception=False)
    >>> [name for name, verdict in verdicts.items() if verdict != "SUCCESS"]
    ['test_faketensor', 'test_compiled']
    """
    overload = _overload(op, args, dict(kwargs or {}))
    wanted = _wanted(test_utils)
    verdicts: Verdicts = {}
    for name in wanted:
        call = _Call(overload, tuple(args), dict(kwargs or {}))
        try:
            TESTS[name](call)
        except (PlaitError, AssertionError, TypeError, ValueError, RuntimeError) as error:
            if raise_exception:
                raise OpCheckError(
                    f"opcheck({overload.qualname}): {name} failed: {error}"
                ) from error
            verdicts[name] = error
        else:
            verdicts[name] = "SUCCESS"
    return verdicts


def _overload(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Overload:
    if isinstance(op, str):
        return lookup(op)
    if isinstance(op, OperatorPacket):
        return op.select(tuple(args), kwargs)
    found = getattr(op, "op", op)
    if not isinstance(found, Overload):
        raise InvalidArgument(
            f"opcheck: argument 'op' is a {type(op).__name__}; expected an operator or its name."
        )
    return found


def _wanted(test_utils: str | Iterable[str] | None) -> list[str]:
    if test_utils is None:
        return list(TESTS)
    names = [test_utils] if isinstance(test_utils, str) else list(test_utils)
    unknown = [name for name in names if name not in TESTS]
    if unknown:
        raise InvalidArgument(
            f"opcheck: argument 'test_utils' names {unknown}; expected some of {list(TESTS)}."
        )
    return names


# ---------------------------------------------------------------- a call that can be repeated


def _copied(value: Any) -> Any:
    """A tensor with memory of its own, the same strides and requires_grad; lists item by item."""
    if isinstance(value, Tensor):
        array = value.numpy(force=True)
        fresh = np.ndarray(array.shape, array.dtype, np.empty(_extent(array), np.uint8),
                           strides=array.strides)  # fmt: skip
        np.copyto(fresh, array)
        copy = wrap(fresh, value.dtype)
        copy._requires_grad = value.requires_grad
        return copy
    if isinstance(value, list | tuple):
        return type(value)(_copied(v) for v in value)
    return value


def _extent(array: Any) -> int:
    if array.size == 0:
        return int(array.itemsize)
    return int(sum((n - 1) * abs(s) for n, s in zip(array.shape, array.strides)) + array.itemsize)


class _Call:
    """One operator and sample arguments; every run is on copies."""

    def __init__(self, op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.op, self.args, self.kwargs = op, args, kwargs

    def copies(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh arguments."""
        return _copied(self.args), {k: _copied(v) for k, v in self.kwargs.items()}

    @property
    def requires_grad(self) -> bool:
        """Whether some sample argument requires grad."""
        return any(t.requires_grad for t in tensors_in((*self.args, *self.kwargs.values())))


def _flat(out: Any) -> list[Any]:
    return list(tensors_in((out,)))


# ---------------------------------------------------------------- the tests


def _test_schema(call: _Call) -> None:
    """Only what the schema declares is written or shared."""
    op = call.op
    args, kwargs = call.copies()
    given, keywords = op.normalize(args, kwargs)
    named = op.bind(given, keywords)
    before = {name: [t.numpy(force=True).copy() for t in tensors_in((v,))]
              for name, v in named.items()}  # fmt: skip
    out = op(*args, **kwargs)
    for name, arrays in before.items():
        declared = op.schema.argument(name).is_write
        after = [t.numpy(force=True) for t in tensors_in((named[name],))]
        changed = any(a.tobytes() != b.tobytes() for a, b in zip(arrays, after))
        if changed and not declared:
            raise OpCheckError(
                f"{op.qualname}: argument {name!r} was written, which the schema does not declare; "
                "add it to mutates_args."
            )
    aliased = any(r.alias is not None for r in op.schema.returns)
    for number, result in enumerate(_flat(out)):
        for name, value in named.items():
            for tensor in tensors_in((value,)):
                if not aliased and np.may_share_memory(
                    result.numpy(force=True), tensor.numpy(force=True)
                ):
                    raise OpCheckError(
                        f"{op.qualname}: result {number} shares memory with argument {name!r}, "
                        "which the schema does not declare; return a clone."
                    )


def _test_autograd_registration(call: _Call) -> None:
    """Results are followed by the tape through the operator's own registration."""
    if not call.requires_grad or call.op.schema.is_mutable:
        return
    op = call.op
    args, kwargs = call.copies()
    results = _flat(op(*args, **kwargs))
    followed = [r for r in results if r.requires_grad]
    if derivatives_of(op) == {}:
        return
    could = [r for r in results if r.dtype.is_floating or r.dtype.is_complex]
    if could and not followed and not _marks_results(op):
        raise OpCheckError(
            f"{op.qualname}: an argument requires grad, and no result does; the gradient is lost "
            "without a word. Register the kernel below autograd, and a formula with "
            "register_autograd."
        )
    for result in followed:
        maker = result.grad_fn
        if (
            maker is not None
            and maker.op is not None
            and maker.op is not op
            and not op.is_composite
        ):
            raise OpCheckError(
                f"{op.qualname}: the gradient was recorded by {maker.op.qualname}, inside the "
                "kernel, though the operator is not made of operators; register the kernel for a "
                "backend key, or the body as CompositeImplicitAutograd."
            )


def _marks_results(op: Overload) -> bool:
    """A formula of the user's may mark every result as not differentiable."""
    return bool(op.fallbacks)


def _test_faketensor(call: _Call) -> None:
    """The shape function agrees with the kernel."""
    op = call.op
    real_args, real_kwargs = call.copies()
    real = _flat(op(*real_args, **real_kwargs))
    with FakeMode():
        args = _faked(call.args)
        kwargs = {k: _faked(v) for k, v in call.kwargs.items()}
        fake = _flat(op(*args, **kwargs))
    if len(real) != len(fake):
        raise OpCheckError(
            f"{op.qualname}: the shape function gives {len(fake)} tensors, the kernel {len(real)}."
        )
    for number, (r, f) in enumerate(zip(real, fake)):
        for what in ("shape", "dtype", "strides", "device"):
            got, expected = getattr(meta_of(f), what), getattr(meta_of(r), what)
            if got != expected and not (what == "strides" and r.numel() <= 1):
                raise OpCheckError(
                    f"{op.qualname}: the shape function gives result {number} the {what} {got}; "
                    f"the kernel gives {expected}."
                )


def _faked(value: Any) -> Any:
    if isinstance(value, Tensor):
        return fake_like(value, FakeTensor)
    if isinstance(value, list | tuple):
        return type(value)(_faked(v) for v in value)
    return value


def _compare_compiled(call: _Call, backend: str, dynamic: bool) -> None:
    """Results, writes and gradients, compiled against eager."""
    op = call.op

    def run(args: Any, kwargs: Any) -> Any:
        out = op(*args, **kwargs)
        return tuple(_flat(out))

    compiled = compile(run, backend=backend, dynamic=dynamic or None)
    wanted, wanted_grads, wanted_args = _run(call, run)
    found, found_grads, found_args = _run(call, compiled)
    for pairs in (zip(wanted, found), zip(wanted_args, found_args), zip(wanted_grads, found_grads)):
        for expected, got in pairs:
            if (expected is None) != (got is None):
                raise OpCheckError(f"{op.qualname}: a gradient exists eagerly or compiled only.")
            if expected is not None:
                assert_close(got.detach(), expected.detach())


def _run(call: _Call, fn: Callable[..., Any]) -> tuple[list[Any], list[Any], list[Any]]:
    args, kwargs = call.copies()
    out = list(fn(args, kwargs))
    leaves = [t for t in tensors_in((*args, *kwargs.values())) if t.requires_grad]
    followed = [t for t in out if t.requires_grad]
    if leaves and followed and not call.op.schema.is_mutable:
        total = followed[0].sum()
        for t in followed[1:]:
            total = total + t.sum()
        total.backward()
    return out, [t.grad for t in leaves], list(tensors_in((*args, *kwargs.values())))


def _test_aot_dispatch_dynamic(call: _Call) -> None:
    _compare_compiled(call, "aot_eager", dynamic=True)


def _test_compiled(call: _Call) -> None:
    _compare_compiled(call, "llvm", dynamic=False)


TESTS: dict[str, Callable[[_Call], None]] = {
    "test_schema": _test_schema,
    "test_autograd_registration": _test_autograd_registration,
    "test_faketensor": _test_faketensor,
    "test_aot_dispatch_dynamic": _test_aot_dispatch_dynamic,
    "test_compiled": _test_compiled,
}
