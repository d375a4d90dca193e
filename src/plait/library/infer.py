"""From the annotations of a Python function to the schema of an operator.

Owns the table of types that an operator may take and return. Must not know operators: what it makes
is text for `FunctionSchema.parse`.
"""

from __future__ import annotations

import collections.abc
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from plait.base.errors import SchemaError
from plait.dispatch.tags import Tag
from plait.tensor.device import Device
from plait.tensor.dtype import DType
from plait.tensor.opaque import is_opaque_type
from plait.tensor.tensor import Tensor

__all__ = ["infer_schema", "signature_of"]


class _Kind(typing.NamedTuple):
    """A Python type: its name in schemas, and which lists of it exist."""

    name: str
    lists: bool = False
    lists_of_optional: bool = False
    optional_lists: bool = False


PARAMETERS: dict[Any, _Kind] = {
    Tensor: _Kind("Tensor", lists=True, lists_of_optional=True),
    int: _Kind("SymInt", lists=True, optional_lists=True),
    float: _Kind("float", lists=True, optional_lists=True),
    bool: _Kind("bool", lists=True, optional_lists=True),
    str: _Kind("str"),
    numbers.Number: _Kind("Scalar", lists=True),
    int | float | bool: _Kind("Scalar", lists=True),
    DType: _Kind("ScalarType"),
    Device: _Kind("Device"),
}
RETURNS: dict[Any, str] = {
    Tensor: "Tensor",
    int: "SymInt",
    float: "float",
    bool: "bool",
    numbers.Number: "Scalar",
    int | float | bool: "Scalar",
}
_LISTS = (list, collections.abc.Sequence)
_NONE = type(None)
_ACCEPTED = (
    "Tensor, int, float, bool, str, Number, DType, Device, a registered opaque type, Optional of "
    "one of these, and lists of Tensor, int, float, bool or Number"
)


def infer_schema(
    prototype: Callable[..., Any],
    /,
    *,
    mutates_args: str | Iterable[str],
    op_name: str | None = None,
    tags: Tag | Sequence[Tag] | None = None,
) -> str:
    """The schema of an operator with the parameters of ``prototype``, from its annotations.

    ``mutates_args`` names the tensors that it writes, or is "unknown": all tensors are considered
    written. With ``Tag.INPLACE`` the first tensor is written and returned; with ``Tag.OUT`` the
    keyword-only tensors are. SchemaError (a ValueError) names the parameter that cannot be used.

    >>> from plait import Tensor
    >>> def scaled(x: Tensor, factor: float = 2.0, *, out_dtype: bool = False) -> Tensor: ...
    >>> infer_schema(scaled, mutates_args=())
    '(Tensor x, float factor=2.0, *, bool out_dtype=False) -> Tensor'
    """
    return _Inference(prototype, mutates_args, tags).text(op_name)


class _Inference:
    """One function on its way to a schema."""

    def __init__(
        self,
        prototype: Callable[..., Any],
        mutates: str | Iterable[str],
        tags: Tag | Sequence[Tag] | None,
    ) -> None:
        self.name = getattr(prototype, "__name__", repr(prototype))
        self.signature = signature_of(prototype, self.name)
        self.tags = (tags,) if isinstance(tags, Tag) else tuple(tags or ())
        if isinstance(mutates, str) and mutates != "unknown":
            raise SchemaError(
                f"infer_schema({self.name}): argument 'mutates_args' is {mutates!r}; expected "
                "'unknown' or an iterable of argument names."
            )
        self.mutates = mutates if isinstance(mutates, str) else set(mutates)
        self._check_names()

    def _check_names(self) -> None:
        if isinstance(self.mutates, str):
            return
        parameters = self.signature.parameters
        unknown = sorted(self.mutates - set(parameters))
        if unknown:
            raise SchemaError(
                f"infer_schema({self.name}): argument 'mutates_args' names {unknown}; expected "
                f"some of the parameters {list(parameters)}."
            )

    def fault(self, parameter: str, text: str) -> SchemaError:
        """An error that names the parameter and the function."""
        return SchemaError(f"infer_schema: parameter {parameter!r} of {self.name} {text}")

    def text(self, op_name: str | None) -> str:
        """The schema's text."""
        if Tag.INPLACE in self.tags and Tag.OUT in self.tags:
            raise SchemaError(
                f"infer_schema({self.name}): tags INPLACE and OUT exclude each other; got both."
            )
        parts: list[str] = []
        aliases: list[str] = []
        saw_star = False
        for position, parameter in enumerate(self.signature.parameters.values()):
            if parameter.kind is parameter.KEYWORD_ONLY and not saw_star:
                saw_star = True
                parts.append("*")
            parts.append(self._parameter(parameter, position, aliases))
        return f"{op_name or ''}({', '.join(parts)}) -> {self._returns(aliases)}"

    def _parameter(self, parameter: inspect.Parameter, position: int, aliases: list[str]) -> str:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL,
                              parameter.VAR_KEYWORD):  # fmt: skip
            kind = parameter.kind.description
            raise self.fault(parameter.name, f"is {kind}; expected one that has a name.")
        if parameter.annotation is parameter.empty:
            raise self.fault(parameter.name, "has no annotation; expected one.")
        text = self._type(parameter.name, parameter.annotation)
        if self._is_written(parameter, text):
            if not text.startswith("Tensor"):
                raise self.fault(
                    parameter.name, "is named by mutates_args; expected a Tensor or a list of them."
                )
            alias = f"(a{position}!)"
            aliases.append(alias)
            text = "Tensor" + alias + text.removeprefix("Tensor")
        return f"{text} {parameter.name}{self._default(parameter, text)}"

    def _is_written(self, parameter: inspect.Parameter, text: str) -> bool:
        if isinstance(self.mutates, str):
            return text.startswith("Tensor")
        return parameter.name in self.mutates

    def _type(self, name: str, annotation: Any) -> str:
        if annotation in _hashable(PARAMETERS, annotation):
            return PARAMETERS[annotation].name
        if is_opaque_type(annotation):
            return "Opaque"
        inner = _optional(annotation)
        if inner is not None:
            return self._optional_type(name, inner)
        element = _element(annotation)
        if element is not None:
            optional = _optional(element)
            if optional is not None and self._lists(optional, "lists_of_optional"):
                return PARAMETERS[optional].name + "?[]"
            if self._lists(element, "lists"):
                return PARAMETERS[element].name + "[]"
        hint = ""
        if typing.get_origin(annotation) is tuple or annotation is tuple:
            hint = " Use list instead of tuple."
        raise self.fault(name, f"has type {_shown(annotation)}; expected {_ACCEPTED}.{hint}")

    def _optional_type(self, name: str, inner: Any) -> str:
        element = _element(inner)
        if element is not None and self._lists(element, "optional_lists"):
            return PARAMETERS[element].name + "[]?"
        if element is None:
            return self._type(name, inner) + "?"
        raise self.fault(name, f"has type Optional[{_shown(inner)}]; expected {_ACCEPTED}.")

    def _lists(self, element: Any, which: str) -> bool:
        if element not in _hashable(PARAMETERS, element):
            return False
        allowed: bool = getattr(PARAMETERS[element], which)
        return allowed

    def _default(self, parameter: inspect.Parameter, text: str) -> str:
        value = parameter.default
        if value is parameter.empty:
            return ""
        if value is None or isinstance(value, bool | int | float):
            return f"={value}"
        if isinstance(value, str):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'="{escaped}"'
        if isinstance(value, DType):
            return f"={value.name}"
        if isinstance(value, Device):
            return f'="{value}"'
        raise self.fault(
            parameter.name,
            f"has a default of type {type(value).__name__}; expected a number, bool, str, DType, "
            "Device or None.",
        )

    def _returns(self, aliases: list[str]) -> str:
        annotation = self.signature.return_annotation
        if annotation is inspect.Signature.empty:
            raise SchemaError(f"infer_schema: {self.name} has no return annotation; expected one.")
        if Tag.INPLACE in self.tags or Tag.OUT in self.tags:
            return self._aliased_returns(annotation, aliases)
        if annotation in (None, _NONE):
            return "()"
        if typing.get_origin(annotation) is tuple:
            items = typing.get_args(annotation)
            return f"({', '.join(self._return(item) for item in items)})"
        return self._return(annotation)

    def _return(self, annotation: Any) -> str:
        if annotation in _hashable(RETURNS, annotation):
            return RETURNS[annotation]
        if _element(annotation) is Tensor:
            return "Tensor[]"
        raise SchemaError(
            f"infer_schema: the result of {self.name} has type {_shown(annotation)}; expected "
            "Tensor, list[Tensor], int, float, bool, Number, None, or a tuple of these."
        )

    def _aliased_returns(self, annotation: Any, aliases: list[str]) -> str:
        """Results of an operator that returns the tensors it writes."""
        parameters = list(self.signature.parameters.values())
        if Tag.INPLACE in self.tags:
            first = next((p for p in parameters if p.annotation is Tensor), None)
            expected = [first.name] if first is not None else []
            what = "the first tensor, and nothing else,"
        else:
            expected = [
                p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.annotation is Tensor
            ]
            what = "the keyword-only tensors, and nothing else,"
        written = sorted(self.mutates) if not isinstance(self.mutates, str) else [self.mutates]
        if not expected or sorted(expected) != written:
            tag = "INPLACE" if Tag.INPLACE in self.tags else "OUT"
            raise SchemaError(
                f"infer_schema({self.name}): with the tag {tag}, {what} must be written; got "
                f"mutates_args {written}; expected {expected}."
            )
        items = (
            typing.get_args(annotation) if typing.get_origin(annotation) is tuple else [annotation]
        )
        if list(items) != [Tensor] * len(expected):
            raise SchemaError(
                f"infer_schema({self.name}): it must return what it writes, {expected}; got a "
                f"result of type {_shown(annotation)}."
            )
        shown = ["Tensor" + alias for alias in aliases]
        return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def signature_of(prototype: Callable[..., Any], name: str) -> inspect.Signature:
    """The signature, with annotations that are strings looked up in the function's own module."""
    if not callable(prototype):
        raise SchemaError(f"infer_schema: got a {type(prototype).__name__}; expected a function.")
    signature = inspect.signature(prototype)
    annotations = {k: p.annotation for k, p in signature.parameters.items()}
    annotations["return"] = signature.return_annotation
    if not any(isinstance(a, str) for a in annotations.values()):
        return signature
    try:
        return inspect.signature(prototype, eval_str=True)
    except NameError as error:
        strings = {k: a for k, a in annotations.items() if isinstance(a, str)}
        raise SchemaError(
            f"infer_schema({name}): an annotation cannot be resolved ({error}); got {strings}; "
            "expected names of the function's module. Annotate with the types themselves."
        ) from error


def _hashable(table: dict[Any, Any], annotation: Any) -> dict[Any, Any]:
    """The table, if the annotation can be looked up in it."""
    return table if isinstance(annotation, collections.abc.Hashable) else {}


def _optional(annotation: Any) -> Any:
    """T of Optional[T]; None for anything else."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return None
    items = typing.get_args(annotation)
    rest = [item for item in items if item is not _NONE]
    if len(rest) == len(items):
        return None
    return rest[0] if len(rest) == 1 else typing.Union[tuple(rest)]  # noqa: UP007


def _element(annotation: Any) -> Any:
    """T of list[T], List[T] or Sequence[T]; None for anything else."""
    items = typing.get_args(annotation)
    return items[0] if typing.get_origin(annotation) in _LISTS and items else None


def _shown(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
