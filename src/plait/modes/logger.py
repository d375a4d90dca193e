"""`OperatorLogger`: every operator call with the types of its arguments and results."""

from __future__ import annotations

from typing import Any, NamedTuple, TextIO

from plait.dispatch.operator import Overload
from plait.ir.graph import Frame
from plait.modes.watching import WatchingMode, at, phase, place
from plait.tensor.tensor import Tensor

__all__ = ["LoggedCall", "OperatorLogger"]


class LoggedCall(NamedTuple):
    """One call: texts of its arguments and results, the user's line, "forward" or "backward"."""

    operator: str
    arguments: str
    results: str
    place: Frame | None
    phase: str

    def __str__(self) -> str:
        return f"{self.operator}({self.arguments}) -> {self.results}{at(self.place)}"


class OperatorLogger(WatchingMode):
    """Records each operator that reaches it: below autograd, composites by their parts.

    ``calls`` holds the records; ``file`` (``sys.stderr``, say) gets each as a line when it ends.

    >>> import plait
    >>> with OperatorLogger() as log:
    ...     y = plait.ones(2, 3).t() * 2
    >>> for call in log.calls:
    ...     print(call.operator, call.arguments, "->", call.results)
    aten::ones (2, 3) -> float32[2, 3]
    aten::t float32[2, 3] -> float32[3, 2]
    aten::mul.Scalar float32[3, 2], 2 -> float32[3, 2]
    """

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__()
        self.calls: list[LoggedCall] = []
        self.file = file

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        arguments = _arguments(op, args, kwargs)
        out = op(*args, **kwargs)
        call = LoggedCall(op.qualname, arguments, _shown(out), place(), phase())
        self.calls.append(call)
        if self.file is not None:
            print(call, file=self.file)
        return out

    def __str__(self) -> str:
        return "\n".join(map(str, self.calls))


def _arguments(op: Overload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments that are not their defaults."""
    positional = list(zip(op.schema.positional, args, strict=True))
    while positional and positional[-1][0].has_default:
        argument, value = positional[-1]
        if isinstance(value, Tensor) or value != argument.default:
            break
        positional.pop()
    shown = [_shown(value) for _, value in positional]
    for argument in op.schema.kwonly:
        value = kwargs[argument.name]
        default = argument.has_default and not isinstance(value, Tensor)
        if not default or value != argument.default:
            shown.append(f"{argument.name}={_shown(value)}")
    return ", ".join(shown)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        cls = "" if type(value) is Tensor else f"{type(value).__name__} "
        return f"{cls}{value.dtype}[{', '.join(map(str, value.shape))}]".replace("plait.", "")
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    return repr(value)
