"""Wrapper subclasses: tensors that hold other tensors instead of memory.

A wrapper has the metadata of a tensor of its own (its *outer* sizes, strides, type) and inner
tensors in attributes. Owns the protocol by which everybody else takes a wrapper apart and puts it
together again, and the correction of what a handler returns so that it aliases as the operator's
schema says. Knows no operator, no tape and no tracer.

Note [What a wrapper must say]. ``__plait_dispatch__`` answers operators below autograd, with the
wrappers of its class among the arguments; ``__plait_flatten__`` names the attributes that hold
inner tensors, and a context of everything else that must be equal for two wrappers to be alike;
``__plait_unflatten__`` is its inverse. The context is compared by ``==`` and outlives the wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from plait.base.errors import (
    ArgumentTypeError,
    CaptureError,
    DataDependentError,
    InvalidArgument,
    MissingKernel,
)
from plait.dispatch.keys import DispatchKey
from plait.dispatch.keyset import CPU_TENSOR_KEYS, META_TENSOR_KEYS
from plait.dispatch.operator import Overload
from plait.dispatch.state import tls
from plait.tensor import device as devices
from plait.tensor.device import CPU, Device
from plait.tensor.dtype import DType, as_dtype
from plait.tensor.layout import TensorMeta, extent
from plait.tensor.storage import fake_storage
from plait.tensor.tensor import Tensor

__all__ = [
    "WRAPPER_KEYS",
    "WrapperTensor",
    "correct_aliasing",
    "flatten_wrapper",
    "inner_tensors",
    "is_wrapper",
    "map_tensors",
    "unflatten_wrapper",
]

_PYTHON = DispatchKey.PYTHON.mask | DispatchKey.PYTHON_TLS_SNAPSHOT.mask
WRAPPER_KEYS = CPU_TENSOR_KEYS | _PYTHON
_TAPE = ("_requires_grad", "_grad_fn", "_output_nr", "_grad", "_view", "_hooks")


class WrapperTensor(Tensor):
    """Base class of tensors that hold tensors. See Note [What a wrapper must say].

    A subclass calls ``super().__init__(shape, dtype=...)`` with its outer metadata, keeps its inner
    tensors in attributes, and defines the three methods of the protocol.

    >>> import plait
    >>> class Scaled(WrapperTensor):
    ...     def __init__(self, values, scale):
    ...         super().__init__(values.shape, strides=values.strides, dtype=values.dtype)
    ...         self.values, self.scale = values, scale
    ...     def __plait_flatten__(self):
    ...         return ("values",), self.scale
    ...     @classmethod
    ...     def __plait_unflatten__(cls, inner, context, shape, strides):
    ...         return cls(inner["values"], context)
    ...     @classmethod
    ...     def __plait_dispatch__(cls, op, types, args, kwargs):
    ...         plain = map_tensors(lambda t: t.values * t.scale, (args, kwargs), cls)
    ...         return op(*plain[0], **plain[1])
    >>> Scaled(plait.ones(2), 3.0) + 1
    tensor([4., 4.])
    """

    _keys = WRAPPER_KEYS
    _is_wrapper: ClassVar[bool] = True

    def __init__(
        self,
        shape: Sequence[Any],
        *,
        dtype: DType,
        strides: Sequence[Any] | None = None,
        device: Device | str = CPU,
        requires_grad: bool = False,
    ) -> None:
        """Give the wrapper its outer metadata; without ``strides`` it is contiguous.

        Raises InvalidArgument for strides of another rank.
        """
        if strides is not None and len(strides) != len(shape):
            raise InvalidArgument(
                f"{type(self).__name__}: argument 'strides' has the wrong rank; got "
                f"{tuple(strides)}; expected one stride for each of the sizes {tuple(shape)}."
            )
        place = devices.parse(device)
        meta = TensorMeta(
            tuple(shape), as_dtype(dtype), place, None if strides is None else tuple(strides)
        )
        self._meta = meta
        self._dtype, self._device, self._offset = meta.dtype, place, 0
        if place.type == "meta":
            self._keys = META_TENSOR_KEYS | _PYTHON
        nbytes = extent(meta.shape, meta.strides) * meta.dtype.itemsize
        self._storage = fake_storage(nbytes, place)
        if requires_grad:
            self.requires_grad = True

    # ------------------------------------------------------------ the protocol

    def __plait_flatten__(self) -> tuple[Sequence[str], Any]:
        """(names of the attributes that hold inner tensors, context)."""
        raise MissingKernel(
            f"{type(self).__name__}: the class does not define __plait_flatten__()."
        )

    @classmethod
    def __plait_unflatten__(
        cls, inner: dict[str, Tensor], context: Any, shape: Sequence[Any], strides: Sequence[Any]
    ) -> Tensor:
        """The wrapper that holds ``inner``, with this context and these outer sizes."""
        raise MissingKernel(f"{cls.__name__}: the class does not define __plait_unflatten__().")

    @classmethod
    def __plait_dispatch__(
        cls, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Handle one call, or return NotImplemented."""
        return NotImplemented

    @classmethod
    def __plait_coerce_tangent__(cls, tangent: Tensor, context: Any) -> Tensor | None:
        """Make ``tangent``, which came to a compiled output of this class, one of this class.

        ``context`` is that of the output. None: it cannot be done, which is an error.
        """
        return None

    def to_dense(self) -> Tensor:
        """A plain tensor of the same values, for reads of data (``item``, ``numpy``).

        ArgumentTypeError unless the subclass defines it.
        """
        raise ArgumentTypeError(
            f"to_dense: a {type(self).__name__} holds tensors and has no plain form; got one of "
            f"shape {tuple(self.shape)}. Read its inner tensors "
            f"({', '.join(self.__plait_flatten__()[0])}), or define to_dense()."
        )

    # ------------------------------------------------------------ what a tensor is asked

    @property
    def is_fake(self) -> bool:
        """Whether an inner tensor has metadata only."""
        return any(inner.is_fake for inner in inner_tensors(self))

    @property
    def held_bytes(self) -> int:
        """Bytes of the inner tensors; ``nbytes`` is what a plain tensor of this type would take."""
        return sum(int(inner.nbytes) for inner in inner_tensors(self))

    def _read_data(self, what: str) -> Any:
        if self.is_fake:
            for inner in inner_tensors(self):
                inner._read_data(what)
            raise DataDependentError(f"{what}: the inner tensors have metadata only.")
        return self.to_dense()._read_data(what)

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient. Raises CaptureError where a trace would not see it."""
        self._refuse_in_trace("Tensor.grad", "use plait.autograd.grad")
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self._refuse_in_trace("assignment to Tensor.grad", "return the gradient")
        Tensor.grad.fset(self, value)  # type: ignore[attr-defined]

    def backward(self, *args: Any, **kwargs: Any) -> None:
        """As of a plain tensor. Raises CaptureError while a function is traced."""
        self._refuse_in_trace("Tensor.backward()", "use plait.autograd.grad")
        super().backward(*args, **kwargs)

    def register_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As of a plain tensor. Raises CaptureError while a function is traced."""
        self._refuse_in_trace("Tensor.register_hook()", "register hooks on what it returns")
        return super().register_hook(*args, **kwargs)

    def retain_grad(self) -> None:
        """As of a plain tensor. Raises CaptureError while a function is traced."""
        self._refuse_in_trace("Tensor.retain_grad()", "return the tensor, and ask outside")
        super().retain_grad()

    def _refuse_in_trace(self, what: str, instead: str) -> None:
        """What a user hangs on the tape of a trace would be lost with it."""
        if tls.predispatch is not None and self.is_fake:
            raise CaptureError(f"compile: {what} of a wrapper cannot be captured; {instead}.")

    def _shallow_copy(self) -> Tensor:
        """Another object with the same inner tensors and storage, without a tape."""
        copied = object.__new__(type(self))
        copied.__dict__.update({k: v for k, v in vars(self).items() if k not in _TAPE})
        return copied

    def __repr__(self) -> str:
        names, context = self.__plait_flatten__()
        parts = [f"{name}={getattr(self, name)!r}" for name in names]
        if context is not None:
            parts.append(f"context={context!r}")
        if self._requires_grad:
            parts.append("requires_grad=True")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __reduce__(self) -> Any:
        raise ArgumentTypeError(
            f"pickle: a {type(self).__name__} is not pickled; save its inner tensors instead."
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        names, context = self.__plait_flatten__()
        inner = {name: getattr(self, name).__deepcopy__(memo) for name in names}
        copied = unflatten_wrapper(type(self), inner, context, self.shape, self.strides)
        copied._requires_grad = self._requires_grad
        memo[id(self)] = copied
        return copied


# ---------------------------------------------------------------- taking apart


def is_wrapper(value: Any) -> bool:
    """Whether ``value`` is a wrapper.

    >>> is_wrapper(3)
    False
    """
    return isinstance(value, WrapperTensor)


def flatten_wrapper(tensor: WrapperTensor) -> tuple[tuple[str, ...], Any]:
    """What ``__plait_flatten__`` says, checked.

    Raises ArgumentTypeError for an answer of another form, or an attribute without a tensor.
    """
    answer = tensor.__plait_flatten__()
    name = type(tensor).__name__
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ArgumentTypeError(
            f"{name}.__plait_flatten__: got {answer!r}; expected (attribute names, context)."
        )
    names, context = tuple(answer[0]), answer[1]
    for attr in names:
        inner = getattr(tensor, attr, None) if isinstance(attr, str) else None
        if not isinstance(inner, Tensor):
            raise ArgumentTypeError(
                f"{name}.__plait_flatten__: names {attr!r}, which holds a {type(inner).__name__}; "
                "expected attributes that hold tensors. Put anything else into the context."
            )
    return names, context


def unflatten_wrapper(
    cls: type[Any], inner: dict[str, Tensor], context: Any, shape: Any, strides: Any
) -> Tensor:
    """What ``__plait_unflatten__`` makes, checked to be a ``cls`` of this shape."""
    made = cls.__plait_unflatten__(inner, context, shape, strides)
    if type(made) is not cls or tuple(made.shape) != tuple(shape):
        raise ArgumentTypeError(
            f"{cls.__name__}.__plait_unflatten__: got a {type(made).__name__} of shape "
            f"{tuple(getattr(made, 'shape', ()))}; expected a {cls.__name__} of shape "
            f"{tuple(shape)}, as it was flattened."
        )
    result: Tensor = made
    return result


def inner_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The inner tensors of a wrapper in its order, through nested wrappers; else the tensor.

    >>> import plait
    >>> x = plait.ones(2)
    >>> list(inner_tensors(x))[0] is x
    True
    """
    if not isinstance(tensor, WrapperTensor):
        yield tensor
        return
    for name in flatten_wrapper(tensor)[0]:
        yield from inner_tensors(getattr(tensor, name))


def map_tensors(fn: Callable[[Any], Any], value: Any, cls: type[Tensor] = Tensor) -> Any:
    """``value`` with ``fn`` applied to each ``cls`` in it, inside tuples, lists and dicts.

    >>> import plait
    >>> map_tensors(lambda t: t.shape, (plait.ones(2), [plait.ones(3), 1]))
    ((2,), [(3,), 1])
    """
    if isinstance(value, cls):
        return fn(value)
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(fn, item, cls) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(fn, item, cls) for key, item in value.items()}
    return value


# ---------------------------------------------------------------- aliases


def correct_aliasing(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """``out``, what a handler made of a call, aliasing its arguments as the schema says.

    What an operator writes is returned as the very object that was given. A view gets the storage
    of what it is a view of, so that the tape counts writes to either as writes to both. ``args``
    and ``kwargs`` are as the handler got them. ArgumentTypeError where the handler returned another
    number of results.
    """
    schema = op.schema
    if not schema.is_mutable and not schema.is_view:
        return out
    named = op.bind(args, kwargs)
    given = {
        a.alias.name: (named[a.name], a.alias.is_write)
        for a in schema.arguments
        if a.alias is not None
    }
    if len(schema.returns) == 1:
        return _aliased(schema.returns[0], given, out)
    if len(schema.returns) != len(out if isinstance(out, tuple | list) else ()):
        raise ArgumentTypeError(
            f"{op.qualname}: the handler returned {type(out).__name__}; expected "
            f"{len(schema.returns)} results."
        )
    return tuple(_aliased(r, given, o) for r, o in zip(schema.returns, out, strict=True))


def _aliased(returned: Any, given: dict[str, tuple[Any, bool]], out: Any) -> Any:
    if returned.alias is None or returned.alias.name not in given:
        return out
    source, is_write = given[returned.alias.name]
    if is_write:
        return source
    for tensor in out if isinstance(out, tuple | list) else (out,):
        if isinstance(tensor, WrapperTensor) and isinstance(source, Tensor):
            tensor._storage = source.storage
    return out
