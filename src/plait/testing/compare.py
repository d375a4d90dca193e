"""Comparisons: the one table of tolerances, and the checks that every operator passes.

The oracle is handed in as a module (``torch``), so that nothing here needs it. Each check takes an
operator's qualname and a sample call and raises AssertionError with both in its message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plait.dispatch.dispatcher import lookup
from plait.dispatch.operator import Overload
from plait.tensor import dtype as dtypes
from plait.tensor.dtype import DType
from plait.tensor.layout import TensorMeta
from plait.tensor.tensor import Tensor, from_numpy, make_fake
from plait.testing.samples import SampleInput

__all__ = [
    "assert_close",
    "check_against_torch",
    "check_decomposition",
    "check_error_like_torch",
    "check_gradients_against_torch",
    "check_inplace",
    "check_out",
    "check_second_gradients_against_torch",
    "check_shape_rule",
    "from_torch",
    "to_torch",
    "tolerance",
]

# (relative, absolute) tolerance by dtype, then by family where arithmetic is longer or reordered.
_TOLERANCES: dict[DType, tuple[float, float]] = {
    dtypes.float16: (1e-3, 1e-4),
    dtypes.bfloat16: (1.6e-2, 1e-3),
    dtypes.float32: (2e-6, 5e-7),
    dtypes.float64: (1e-12, 1e-14),
    dtypes.complex64: (2e-6, 5e-7),
    dtypes.complex128: (1e-12, 1e-14),
}
_ROUNDED = (dtypes.float16, dtypes.bfloat16)
_LOOSER = {  # family -> factor on both
    "elementwise": 1.0,
    "reduction": 4.0,
    "normalize": 10.0,
    "matmul": 20.0,
    "attention": 20.0,
    "gradient": 20.0,
    "compiled": 20.0,
}


def tolerance(dtype: DType, family: str = "elementwise") -> tuple[float, float]:
    """(rtol, atol) for results of ``dtype``; exact for integers and bools."""
    rtol, atol = _TOLERANCES.get(dtype, (0.0, 0.0))
    factor = _LOOSER.get(family, 1.0)
    # The half types' own digits are few: a wider relative bound would compare nothing.
    return rtol * (min(factor, 4.0) if dtype in _ROUNDED else factor), atol * factor


# ---------------------------------------------------------------- values


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "data_ptr")


def _as_array(value: Any) -> Any:
    """Any tensor or array as an ndarray; bfloat16 as float32."""
    if isinstance(value, Tensor):
        value = value.numpy(force=True)
    elif _is_torch(value):
        value = value.detach()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy(force=True)
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def assert_close(
    actual: Any,
    expected: Any,
    *,
    family: str = "elementwise",
    rtol: float | None = None,
    atol: float | None = None,
    label: str = "",
) -> None:
    """Values equal up to the table's tolerance, shapes equal, NaN where NaN; tuples too."""
    if isinstance(expected, list | tuple):
        assert len(actual) == len(expected), f"{label}: {len(actual)} results, not {len(expected)}"
        for i, pair in enumerate(zip(actual, expected, strict=True)):
            assert_close(*pair, family=family, rtol=rtol, atol=atol, label=f"{label}[{i}]")
        return
    got, wanted = _as_array(actual), _as_array(expected)
    dtype = actual.dtype if isinstance(actual, Tensor) else dtypes.from_numpy(got.dtype)
    table = tolerance(dtype, family)
    np.testing.assert_allclose(
        got,
        wanted,
        rtol=table[0] if rtol is None else rtol,
        atol=table[1] if atol is None else atol,
        err_msg=label,
        strict=False,
    )
    assert got.shape == wanted.shape, f"{label}: shape {got.shape}, not {wanted.shape}"


# ---------------------------------------------------------------- plait <-> torch


def _torch_name(dtype: DType) -> str:
    return "bool" if dtype is dtypes.bool_ else dtype.name


def to_torch(torch: Any, value: Any) -> Any:
    """A plait value as torch's: tensors share no memory but have the same strides and offset."""
    if isinstance(value, Tensor):
        owner = value.storage.owner
        assert owner is not None, "a fake has no values"
        if value.dtype is dtypes.bfloat16:
            flat = torch.from_numpy(owner.view(np.int16).copy()).view(torch.bfloat16)
        else:
            flat = torch.from_numpy(owner.view(value.dtype.numpy).copy())
        out = flat.as_strided(value.shape, value.strides, value.storage_offset())
        return out.detach().requires_grad_(value.requires_grad)
    if isinstance(value, DType):
        return getattr(torch, _torch_name(value))
    if isinstance(value, list | tuple):
        return [to_torch(torch, item) for item in value]
    return value


def from_torch(value: Any) -> Tensor:
    """A torch tensor as plait's, sharing memory."""
    return from_numpy(value.detach().numpy())


def torch_op(torch: Any, qualname: str) -> Callable[..., Any]:
    """torch's overload of the same name."""
    namespace, _, rest = qualname.partition("::")
    name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name)
    return getattr(packet, overload or "default")  # type: ignore[no-any-return]


def torch_call(torch: Any, qualname: str, sample: SampleInput) -> Any:
    """What torch answers to the sample; memory formats are left out."""
    call = sample.replaced(lambda value: to_torch(torch, value))
    return torch_op(torch, qualname)(*call.args, **call.kwargs)


def _results(out: Any) -> list[Any]:
    return list(out) if isinstance(out, list | tuple) else [out]


def _label(qualname: str, sample: SampleInput) -> str:
    return f"{qualname} [{sample.name}]"


# ---------------------------------------------------------------- checks against the oracle


def check_against_torch(
    torch: Any,
    qualname: str,
    sample: SampleInput,
    *,
    family: str | None = None,
    strides: bool = True,
) -> None:
    """Values, dtype, shape and (unless told otherwise) strides are torch's."""
    op, label = lookup(qualname), _label(qualname, sample)
    wanted = _results(torch_call(torch, qualname, sample))
    got = _results(op(*sample.args, **sample.kwargs))
    assert len(got) == len(wanted), f"{label}: {len(got)} results, not {len(wanted)}"
    for ours, theirs in zip(got, wanted, strict=True):
        assert str(theirs.dtype) == f"torch.{_torch_name(ours.dtype)}", (
            f"{label}: dtype {ours.dtype}, not {theirs.dtype}"
        )
        assert ours.shape == tuple(theirs.shape), f"{label}: shape {ours.shape}"
        if strides:
            assert ours.strides == theirs.stride(), (
                f"{label}: strides {ours.strides}, not {theirs.stride()}"
            )
        assert_close(ours, theirs, family=family or op.kind, label=label)


def check_error_like_torch(torch: Any, qualname: str, sample: SampleInput) -> None:
    """Both raise, and ours is an instance of the builtin class that torch raised.

    NotImplementedError and RuntimeError answer each other: the first is a case of the second.
    """
    label = _label(qualname, sample)
    theirs = _error_of(lambda: torch_call(torch, qualname, sample))
    ours = _error_of(lambda: lookup(qualname)(*sample.args, **sample.kwargs))
    assert theirs is not None, f"{label}: torch does not raise"
    assert ours is not None, f"{label}: nothing raised; torch: {theirs!r}"
    expected = RuntimeError if isinstance(theirs, RuntimeError) else type(theirs)
    assert isinstance(ours, expected), f"{label}: raised {ours!r}; torch: {theirs!r}"


def _error_of(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def check_gradients_against_torch(torch: Any, qualname: str, sample: SampleInput) -> None:
    """Gradients of all floating and complex arguments, for one fixed cotangent, are torch's."""
    from plait.autograd.functional import grad

    op, label = lookup(qualname), _label(qualname, sample)
    call = sample.replaced(_differentiable)
    oracle = call.replaced(lambda value: to_torch(torch, value))
    theirs = _results(torch_op(torch, qualname)(*oracle.args, **oracle.kwargs))
    ours = _results(op(*call.args, **call.kwargs))
    outs = [i for i, t in enumerate(theirs) if t.requires_grad]
    if not outs:
        assert not any(o.requires_grad for o in ours), f"{label}: should not require grad"
        return
    inputs = [t for t in call.tensors() if t.requires_grad]
    oracle_inputs = [t for t in _torch_tensors(oracle) if t.requires_grad]
    cotangents = [_cotangent(ours[i]) for i in outs]
    got = grad([ours[i] for i in outs], inputs, cotangents, allow_unused=True)
    wanted = torch.autograd.grad(
        [theirs[i] for i in outs],
        oracle_inputs,
        [to_torch(torch, c) for c in cotangents],
        allow_unused=True,
    )
    rtol, atol = _loosest(call, ours)
    for mine, other in zip(got, wanted, strict=True):
        mine_array = np.zeros(()) if mine is None else _as_array(mine)
        other_array = np.zeros(()) if other is None else _as_array(other)
        mine_array, other_array = np.broadcast_arrays(mine_array, other_array)
        assert_close(mine_array, other_array, rtol=rtol, atol=atol, label=f"{label} gradient")


def check_second_gradients_against_torch(torch: Any, qualname: str, sample: SampleInput) -> None:
    """Gradients of the gradients, by inputs and cotangents, are torch's (None is zero)."""
    from plait.autograd.functional import grad

    label = _label(qualname, sample)
    call = sample.replaced(_differentiable)
    oracle = call.replaced(lambda value: to_torch(torch, value))
    ours = _results(lookup(qualname)(*call.args, **call.kwargs))
    theirs = _results(torch_op(torch, qualname)(*oracle.args, **oracle.kwargs))
    followed = [i for i, t in enumerate(theirs) if t.requires_grad]
    if not followed:
        return
    ours, theirs = [ours[i] for i in followed], [theirs[i] for i in followed]
    inputs = [t for t in call.tensors() if t.requires_grad]
    oracle_inputs = [t for t in _torch_tensors(oracle) if t.requires_grad]
    gs = [_cotangent(out).requires_grad_() for out in ours]
    oracle_gs = [to_torch(torch, g) for g in gs]
    first = grad(ours, inputs, gs, allow_unused=True, create_graph=True)
    wanted = torch.autograd.grad(
        theirs, oracle_inputs, oracle_gs, allow_unused=True, create_graph=True
    )
    pairs = [
        (a, b) for a, b in zip(first, wanted, strict=True) if b is not None and b.requires_grad
    ]
    if not pairs:
        return
    rtol, atol = _loosest(call, ours)
    ends = [_cotangent(a) for a, _ in pairs]
    got = grad([a for a, _ in pairs], [*inputs, *gs], ends, allow_unused=True)
    wanted = torch.autograd.grad(
        [b for _, b in pairs],
        [*oracle_inputs, *oracle_gs],
        [to_torch(torch, e) for e in ends],
        allow_unused=True,
    )
    for mine, other in zip(got, wanted, strict=True):
        arrays = [np.zeros(()) if t is None else _as_array(t) for t in (mine, other)]
        mine_array, other_array = np.broadcast_arrays(*arrays)
        assert_close(mine_array, other_array, rtol=rtol, atol=atol, label=f"{label} second")


def _loosest(call: SampleInput, results: list[Any]) -> tuple[float, float]:
    """The tolerance of the least precise dtype in play: gradients pass through all of them."""
    used = [t.dtype for t in (*call.tensors(), *results) if t.dtype.category > 1]
    table = [tolerance(dtype, "gradient") for dtype in used]
    return max(r for r, _ in table), max(a for _, a in table)


def _torch_tensors(sample: SampleInput) -> list[Any]:
    found = []
    for value in (*sample.args, *sample.kwargs.values()):
        found += [
            v for v in (value if isinstance(value, list | tuple) else [value]) if _is_torch(v)
        ]
    return found


def _differentiable(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype.category > 1:
        return value.detach().requires_grad_()
    return value


def _cotangent(out: Tensor) -> Tensor:
    places = np.arange(int(out.numel())) + 1.0
    values: Any = np.cos(places)
    if out.dtype.is_complex:
        values = values + 1j * np.sin(places)
    return from_numpy(values.reshape(out.shape).astype(out.dtype.numpy))


# ---------------------------------------------------------------- checks of a definition


def meta_of(value: Any) -> Any:
    """A tensor's metadata; other values as they are."""
    return value.meta if isinstance(value, Tensor) else value


def check_shape_rule(qualname: str, sample: SampleInput) -> None:
    """The shape rule, on fakes, says exactly what the kernel returns: shape, dtype and strides."""
    op, label = lookup(qualname), _label(qualname, sample)
    assert op.shape_rule is not None, f"{label}: no shape rule"
    fakes = sample.replaced(lambda v: make_fake(v.meta) if isinstance(v, Tensor) else v)
    args, kwargs = op.normalize(fakes.args, fakes.kwargs)
    wanted = op.shape_rule(*args, **kwargs)
    wanted = [wanted] if isinstance(wanted, TensorMeta) else list(wanted)
    got = [meta_of(out) for out in _results(op(*sample.args, **sample.kwargs))]
    assert got == wanted, f"{label}: kernel gives {got}; shape rule says {wanted}"


def check_decomposition(qualname: str, sample: SampleInput) -> None:
    """The decomposition gives the operator's own values, shape and dtype."""
    op, label = lookup(qualname), _label(qualname, sample)
    assert op.decomposition is not None, f"{label}: no decomposition"
    args, kwargs = op.normalize(sample.args, sample.kwargs)
    wanted = _results(op(*args, **kwargs))
    got = _results(op.decomposition(*args, **kwargs))
    for ours, own in zip(got, wanted, strict=True):
        assert ours.dtype is own.dtype, f"{label}: dtype {ours.dtype}, not {own.dtype}"
    assert_close(got, wanted, family="compiled", label=label)


def _copied(value: Any) -> Any:
    """The same values and strides in memory of their own."""
    if not isinstance(value, Tensor):
        return value
    owner = value.storage.owner
    assert owner is not None
    base = from_numpy(owner.view(value.dtype.numpy).copy())
    assert base._array is not None
    steps = [stride * value.dtype.itemsize for stride in value.strides]
    start = value.storage_offset() * value.dtype.itemsize
    array: Any = np.ndarray(value.shape, value.dtype.numpy, base._array, start, steps)
    return from_numpy(array)


def check_inplace(qualname: str, sample: SampleInput) -> None:
    """The in-place overload writes the functional result into its argument, or raises."""
    op, label = lookup(qualname), _label(qualname, sample)
    assert op.inplace is not None, f"{label}: no in-place overload"
    wanted = op(*sample.args, **sample.kwargs)
    call = sample.replaced(_copied)
    target: Tensor = call.args[0]
    if not _accepts(target, wanted):
        error = _error_of(lambda: _variant(op.inplace)(*call.args, **call.kwargs))
        assert isinstance(error, RuntimeError), f"{label}: should raise, got {error!r}"
        return
    out = _variant(op.inplace)(*call.args, **call.kwargs)
    assert out is target, f"{label}: the result is not the argument"
    assert_close(_as_array(target), _as_array(wanted).astype(target.dtype.numpy), label=label)


def _variant(op: Overload | None) -> Overload:
    assert op is not None
    return op


def _accepts(target: Tensor, result: Tensor) -> bool:
    """Whether a result may be written into ``target`` in place."""
    from plait.tensor.overlap import has_internal_overlap
    from plait.tensor.promotion import can_cast

    array = target._array
    return (
        target.shape == result.shape
        and can_cast(result.dtype, target.dtype)
        and not has_internal_overlap(target.layout)
        and array is not None
        and array.flags.writeable
    )


def check_out(qualname: str, sample: SampleInput) -> None:
    """The ``out=`` overload fills a given tensor, and one without elements, and returns it."""
    op, label = lookup(qualname), _label(qualname, sample)
    assert op.out is not None, f"{label}: no out overload"
    wanted = op(*sample.args, **sample.kwargs)
    full = from_numpy(np.empty(wanted.shape, wanted.dtype.numpy))
    empty = from_numpy(np.empty((0,), wanted.dtype.numpy))
    for out in (full, empty):
        returned = op.out(*sample.args, **sample.kwargs, out=out)
        assert returned is out, f"{label}: the result is not 'out'"
        assert_close(out, wanted, label=label)
