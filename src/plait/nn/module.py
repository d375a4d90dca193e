"""`Module` and `Parameter`: named tensors in a tree, and the epoch that guards compare.

Owns the tables `_parameters`, `_buffers`, `_modules` and the process-wide epoch, which moves
whenever any module is changed through its attributes. Values written *into* a parameter
(`p.copy_(...)`) do not move it: they are data, not structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from plait.autograd.grad_mode import no_grad
from plait.base.epoch import module_changes
from plait.base.errors import (
    ArgumentTypeError,
    DtypeMismatch,
    InvalidArgument,
    MissingKernel,
    ShapeMismatch,
    check,
)
from plait.tensor.dtype import DType, as_dtype
from plait.tensor.tensor import Tensor, shallow_copy

__all__ = ["IncompatibleKeys", "Module", "Parameter", "module_epoch"]

T = TypeVar("T")


def module_epoch() -> int:
    """A number that moves whenever some module of this process is changed.

    Changed means: an attribute set or deleted, a parameter, buffer or child registered, `train()`
    or `eval()` called.
    """
    return module_changes.value


class Parameter(Tensor):
    """A leaf tensor that a module owns: assigning one to a module's attribute registers it.

    Shares the memory of `data`. What operators make of parameters are plain tensors.
    """

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise ArgumentTypeError(
                f"Parameter: argument 'data' must be a tensor; got {type(data).__name__}; "
                "expected a Tensor. Convert it with plait.tensor(data)."
            )
        if data._is_wrapper:
            raise ArgumentTypeError(
                f"Parameter: argument 'data' is a {type(data).__name__}, whose class a parameter "
                "would lose; expected a plain tensor. Register a wrapper as a buffer."
            )
        self.__dict__.update(vars(shallow_copy(data)))
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` did not find, and what it did not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A function with state: parameters, buffers and child modules, found by name.

    Subclasses call `super().__init__()`, assign parameters and modules to attributes, and define
    `forward`.
    """

    _parameters: dict[str, Tensor | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _transient_buffers: frozenset[str]
    training: bool

    def __init__(self) -> None:
        vars(self).update(
            _parameters={},
            _buffers={},
            _modules={},
            _transient_buffers=frozenset(),
            training=True,
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; defined by subclasses."""
        raise MissingKernel(f"{type(self).__name__}: the class does not define forward().")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # ------------------------------------------------------------ attributes

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            entries = vars(self).get(table)
            if entries is not None and name in entries:
                return entries[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        own = vars(self)
        if "_parameters" not in own:
            raise InvalidArgument(
                f"{type(self).__name__}: attribute {name!r} is set before Module.__init__ ran; "
                "call super().__init__() first."
            )
        if isinstance(value, Parameter):
            self._place("_parameters", name, value)
        elif isinstance(value, Module):
            self._place("_modules", name, value)
        elif name in self._buffers:
            self._check_optional(name, value, Tensor, "a buffer")
            self._buffers[name] = value
        elif name in self._parameters:
            self._check_optional(name, value, Parameter, "a parameter")
            self._parameters[name] = value
        elif name in self._modules:
            self._check_optional(name, value, Module, "a module")
            self._modules[name] = value
        else:
            own[name] = value
        module_changes.advance()

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                break
        else:
            object.__delattr__(self, name)
        vars(self)["_transient_buffers"] = self._transient_buffers - {name}
        module_changes.advance()

    def __dir__(self) -> list[str]:
        own = (*self._parameters, *self._buffers, *self._modules)
        return sorted({*super().__dir__(), *own})

    def _check_optional(self, name: str, value: Any, expected: type, what: str) -> None:
        check(
            value is None or isinstance(value, expected),
            ArgumentTypeError,
            lambda: (
                f"{type(self).__name__}: attribute {name!r} is {what}; got "
                f"{type(value).__name__}; expected {expected.__name__} or None. "
                "Delete the attribute first to use the name for something else."
            ),
        )

    def _place(self, table: str, name: str, value: Any) -> None:
        check(
            bool(name) and "." not in name,
            InvalidArgument,
            lambda: (
                f"{type(self).__name__}: a name of a parameter, buffer or module; got {name!r}; "
                "expected no dot and at least one character."
            ),
        )
        for other in ("_parameters", "_buffers", "_modules"):
            if other != table:
                vars(self)[other].pop(name, None)
        vars(self).pop(name, None)
        vars(self)[table][name] = value

    # ------------------------------------------------------------ registration

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Own `parameter` under `name`; None keeps the name for an absent one."""
        self._check_optional(name, parameter, Parameter, "to be a parameter")
        self._check_free("_parameters", name)
        self._place("_parameters", name, parameter)
        module_changes.advance()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Own `tensor`, which is not trained; unless `persistent`, state_dict() leaves it out."""
        self._check_optional(name, tensor, Tensor, "to be a buffer")
        self._check_free("_buffers", name)
        self._place("_buffers", name, tensor)
        if not persistent:
            vars(self)["_transient_buffers"] = self._transient_buffers | {name}
        module_changes.advance()

    def register_module(self, name: str, module: Module | None) -> None:
        """Own `module` as a child under `name`."""
        self._check_optional(name, module, Module, "to be a module")
        self._check_free("_modules", name)
        self._place("_modules", name, module)
        module_changes.advance()

    add_module = register_module

    def _check_free(self, table: str, name: str) -> None:
        check(
            name in vars(self)[table] or not hasattr(self, name),
            InvalidArgument,
            lambda: f"{type(self).__name__}: attribute {name!r} exists already. Use another name.",
        )

    # ------------------------------------------------------------ walking the tree

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with qualified names."""
        return _each_once(self._walk(prefix))

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child._walk(_join(prefix, name))

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, each once."""
        return _each_once((n, m) for n, m in self._modules.items() if m is not None)

    def children(self) -> Iterator[Module]:
        """The modules directly below, each once."""
        return (module for _, module in self.named_children())

    def _members(self, table: str, prefix: str, recurse: bool) -> Iterator[tuple[str, Tensor]]:
        modules = self._walk(prefix) if recurse else iter([(prefix, self)])
        for path, module in modules:
            for name, tensor in getattr(module, table).items():
                if tensor is not None:
                    yield _join(path, name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Parameters with qualified names; one that several modules share comes once."""
        found = self._members("_parameters", prefix, recurse)
        return _each_once(found) if remove_duplicate else found

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """Parameters, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with qualified names; one that several modules share comes once."""
        found = self._members("_buffers", prefix, recurse)
        return _each_once(found) if remove_duplicate else found

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Tensor]:
        """Qualified name -> tensor, sharing memory with the module and without its tape."""
        return {name: tensor.detach() for name, tensor in self._persistent()}

    def _persistent(self) -> Iterator[tuple[str, Tensor]]:
        for path, module in self._walk(""):
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    yield _join(path, name), parameter
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._transient_buffers:
                    yield _join(path, name), buffer

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> IncompatibleKeys:
        """Copy `state` into the module's own tensors, all of it or nothing.

        Raises InvalidArgument for names that are missing or not known (unless not `strict`) and
        ShapeMismatch for tensors of another shape.
        """
        own = dict(self._persistent())
        result = IncompatibleKeys(
            [name for name in own if name not in state],
            [name for name in state if name not in own],
        )
        check(
            not strict or not any(result),
            InvalidArgument,
            lambda: (
                f"load_state_dict: argument 'state' does not fit {type(self).__name__}; missing "
                f"{result.missing_keys}, unexpected {result.unexpected_keys}. Pass strict=False to "
                "load what fits."
            ),
        )
        pairs = [(name, tensor, state[name]) for name, tensor in own.items() if name in state]
        for name, tensor, value in pairs:
            _check_loadable(name, tensor, value)
        with no_grad():
            for _, tensor, value in pairs:
                tensor.copy_(value)
        return result

    def train(self, mode: bool = True) -> Self:
        """Set this module and all below to training (or, with False, to evaluation)."""
        for module in self.modules():
            vars(module)["training"] = bool(mode)
        module_changes.advance()
        return self

    def eval(self) -> Self:
        """Set this module and all below to evaluation."""
        return self.train(False)

    def to(self, dtype: DType | str) -> Self:
        """Convert floating parameters and buffers, and gradients, to ``dtype``; returns itself.

        Parameters stay the same objects, so optimisers keep them; buffers are replaced. Integer,
        bool and complex tensors stay as they are, except that ``dtype`` may be complex: then
        complex ones are converted too. Raises DtypeMismatch for an integer or bool ``dtype``.

        >>> import plait
        >>> layer = plait.nn.Linear(2, 3).to(plait.bfloat16)
        >>> layer.weight.dtype
        plait.bfloat16
        """
        wanted = as_dtype(dtype)
        check(
            wanted.category > 1,
            DtypeMismatch,
            lambda: f"Module.to: argument 'dtype' is {wanted}; expected a floating or complex one.",
        )
        for parameter in self.parameters():
            if _is_converted(parameter, wanted):
                _convert(parameter, wanted)
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and _is_converted(buffer, wanted):
                    module._buffers[name] = buffer.detach().to(wanted)
        module_changes.advance()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of every parameter."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        module_changes.advance()
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of every parameter."""
        for parameter in self.parameters():
            parameter.grad = None

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` with every module below, then with this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # ------------------------------------------------------------ printing

    def extra_repr(self) -> str:
        """What is shown between the parentheses after the class name."""
        return ""

    _INDENT: ClassVar[str] = "  "

    def __repr__(self) -> str:
        lines = [
            f"({name}): " + repr(child).replace("\n", "\n" + self._INDENT)
            for name, child in self._modules.items()
        ]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "".join(f"\n{self._INDENT}{line}" for line in ([extra] if extra else []) + lines)
        return f"{type(self).__name__}({body}\n)"


def _is_converted(tensor: Tensor, dtype: DType) -> bool:
    return tensor.dtype.is_floating or (tensor.dtype.is_complex and dtype.is_complex)


def _convert(parameter: Tensor, dtype: DType) -> None:
    """Give a parameter, and its gradient, another element type, in place."""
    grad, requires_grad = parameter.grad, parameter.requires_grad
    vars(parameter).update(vars(shallow_copy(parameter.detach().to(dtype))))
    parameter.requires_grad = requires_grad
    parameter.grad = None if grad is None else grad.to(dtype)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _each_once(named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    seen: set[int] = set()
    for name, value in named:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _check_loadable(name: str, own: Tensor, value: Any) -> None:
    check(
        isinstance(value, Tensor),
        ArgumentTypeError,
        lambda: (
            f"load_state_dict: argument 'state' holds for {name!r} a {type(value).__name__}; "
            "expected a Tensor. Convert it with plait.tensor(value)."
        ),
    )
    check(
        tuple(own.shape) == tuple(value.shape),
        ShapeMismatch,
        lambda: (
            f"load_state_dict: argument 'state' holds for {name!r} a tensor of another shape; got "
            f"{tuple(value.shape)}; expected {tuple(own.shape)}."
        ),
    )
