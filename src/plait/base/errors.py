"""Every exception that plait raises, and `check`, which raises them lazily.

Owns the exception classes; must not know what raises them. Each class derives from `PlaitError`
*and* from the builtin that PyTorch raises in the same situation, so that `except IndexError` in
existing code still works.

    PlaitError
      InvalidArgument         ValueError           the value of an argument is not allowed
      ArgumentTypeError       TypeError            an argument has the wrong Python type
      ShapeMismatch           RuntimeError         shapes do not fit together
      DtypeMismatch           RuntimeError         dtypes do not fit together
      DivisionByZero          RuntimeError         integers were divided by 0; a ZeroDivisionError
      DeviceMismatch          RuntimeError         tensors live on different devices
      IndexOutOfRange         IndexError           a dimension or an index does not exist
      InplaceError            RuntimeError         a tensor may not be modified in place here
      DonatedError            RuntimeError         a tensor's memory was given to a result
      AutogradError           RuntimeError         the tape cannot be built or walked
      DataDependentError      RuntimeError         data were read where only metadata exist
      TransformError          RuntimeError         a function cannot be mapped as it is written
      ExchangeError           BufferError          memory cannot be shared with another library
      CaptureError            RuntimeError         a function cannot be captured
      PartitionError          RuntimeError         a training graph cannot be cut as it was asked
      GuardFailed             RuntimeError         a captured program does not fit its inputs
      BackendCompilerFailed   RuntimeError         a backend raised while it compiled
      InvalidBackend          RuntimeError         no such backend
      SchemaError             ValueError           an operator schema cannot be read
      FormulaError            ValueError           a scalar formula uses what formulas do not have
      RegistrationError       RuntimeError         something is registered twice, or wrongly
      DispatchError           RuntimeError         a layer of the dispatcher cannot answer a call
      MissingKernel           NotImplementedError  an operator has no kernel for these arguments
      OpCheckError            RuntimeError         an operator is not what its registrations say
      NonFiniteError          RuntimeError         a value is NaN where somebody asked for none
      InternalError           RuntimeError         our own verifier found our own fault

Wording: "operator: argument 'name' ...; got X; expected Y. What to do."
"""

from collections.abc import Callable

__all__ = [
    "ArgumentTypeError",
    "AutogradError",
    "BackendCompilerFailed",
    "CaptureError",
    "DataDependentError",
    "DeviceMismatch",
    "DispatchError",
    "DivisionByZero",
    "DonatedError",
    "DtypeMismatch",
    "ExchangeError",
    "FormulaError",
    "GuardFailed",
    "IndexOutOfRange",
    "InplaceError",
    "InternalError",
    "InvalidArgument",
    "InvalidBackend",
    "MissingKernel",
    "NonFiniteError",
    "PartitionError",
    "OpCheckError",
    "PlaitError",
    "RegistrationError",
    "SchemaError",
    "ShapeMismatch",
    "TransformError",
    "check",
]


class PlaitError(Exception):
    """Base of every exception that plait raises on purpose."""


class InvalidArgument(PlaitError, ValueError):
    """An argument has the right type but a value that is not allowed; the message names both."""


class ArgumentTypeError(PlaitError, TypeError):
    """An argument has a Python type that the function does not take."""


class ShapeMismatch(PlaitError, RuntimeError):
    """Shapes do not fit together: they do not broadcast, or a view or product of them does not
    exist.
    """


class DtypeMismatch(PlaitError, RuntimeError):
    """Dtypes do not fit together, or an operator does not take this dtype. Convert with
    `.to(dtype)`.
    """


class DivisionByZero(PlaitError, RuntimeError, ZeroDivisionError):
    """Integers were divided by 0. Floating numbers give infinities and NaN instead: convert with
    `.to(dtype)`.
    """


class DeviceMismatch(PlaitError, RuntimeError):
    """Tensors of one call live on different devices. Move them to one device first."""


class IndexOutOfRange(PlaitError, IndexError):
    """A dimension or an index lies outside of the tensor."""


class InplaceError(PlaitError, RuntimeError):
    """A tensor may not be modified in place here, or was modified after the tape had saved it."""


class DonatedError(PlaitError, RuntimeError):
    """A tensor was used whose memory a compiled function was given for its results."""


class AutogradError(PlaitError, RuntimeError):
    """The tape cannot be built or walked: backward twice, a non-scalar without a cotangent, an
    unused input.
    """


class DataDependentError(PlaitError, RuntimeError):
    """The data of a tensor were read where only its metadata exist, as while a function is
    captured.
    """


class TransformError(PlaitError, RuntimeError):
    """A function cannot be mapped over samples as it is written: it draws random numbers without
    saying how, or keeps a tensor that exists only while it is mapped.
    """


class ExchangeError(PlaitError, BufferError):
    """Memory cannot be shared with another library: another device, a type that one of them lacks,
    a capsule consumed twice. Copy the data instead.
    """


class CaptureError(PlaitError, RuntimeError):
    """A function does something that cannot be captured; the message gives the user's line."""


class PartitionError(PlaitError, RuntimeError):
    """A training graph cannot be cut into forward and backward as its checkpoints ask; the message
    lists the calls on the way, with the user's lines.
    """


class GuardFailed(PlaitError, RuntimeError):
    """A captured program was called with inputs that it was not captured for; the message says
    which guard.
    """


class BackendCompilerFailed(PlaitError, RuntimeError):
    """A backend raised while it compiled a graph; the fault is the backend's, not the user's.

    `backend_name` is the backend's name and `inner` the exception it raised, which is also the
    `__cause__` when raised with `from`.
    """

    def __init__(self, backend_name: str, inner: BaseException) -> None:
        super().__init__(backend_name, inner)
        self.backend_name = backend_name
        self.inner = inner

    def __str__(self) -> str:
        return f"backend {self.backend_name!r} failed: {type(self.inner).__name__}: {self.inner}"


class InvalidBackend(PlaitError, RuntimeError):
    """No backend has this name, or what was given is not callable."""


class SchemaError(PlaitError, ValueError):
    """An operator schema, or the annotations it is inferred from, cannot be read."""


class FormulaError(PlaitError, ValueError):
    """The function given to `pointwise_op` uses what a scalar formula does not have: a loop, a
    subscript, a function that is not listed. The message names the construct and its line.
    """


class RegistrationError(PlaitError, RuntimeError):
    """Something is registered twice, under an unknown name, or with a rule that does not fit the
    schema.
    """


class DispatchError(PlaitError, RuntimeError):
    """A call reached a layer that cannot answer it: a handler that calls itself without end, a
    mode left out of order, a keyset that names a handler nobody entered.
    """


class MissingKernel(PlaitError, NotImplementedError):
    """An operator has no kernel for these arguments; the message lists the keys it has."""


class OpCheckError(PlaitError, RuntimeError):
    """`plait.testing.opcheck` found that an operator does something else than it was registered
    for: an undeclared write, a wrong shape function, a gradient that is lost.
    """


class NonFiniteError(PlaitError, RuntimeError):
    """An operator made NaN (or infinite values) inside `plait.modes.NanFinder(stop=True)`."""


class InternalError(PlaitError, RuntimeError):
    """A verifier of plait found a fault of plait. Please report it, with the listing in the
    message.
    """


def check(
    condition: object, error: Callable[[str], PlaitError], message: Callable[[], str]
) -> None:
    """Raise `error(message())` unless `condition` is true; builds the message only then."""
    if not condition:
        raise error(message())
