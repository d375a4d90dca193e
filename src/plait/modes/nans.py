"""`NanFinder`: the first operator whose result holds NaN though its arguments held none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from plait.base.errors import NonFiniteError
from plait.dispatch.operator import Overload
from plait.ir.graph import Frame
from plait.modes.watching import WatchingMode, at, phase, place, tensors_of

__all__ = ["NanFinder", "NanOrigin"]


class NanOrigin(NamedTuple):
    """Where NaN came up: the operator, how many there are, in which result, and the user's line."""

    operator: str
    what: str
    elements: int
    shape: tuple[int, ...]
    place: Frame | None
    phase: str

    def __str__(self) -> str:
        derivative = ", in the derivative of the call" if self.phase == "backward" else ""
        return (
            f"{self.operator}: made {self.elements} {self.what} in a result of shape {self.shape} "
            f"from arguments without{derivative}{at(self.place)}"
        )


class NanFinder(WatchingMode):
    """Finds the first call that makes NaN (with ``infinities``, infinite values too).

    ``first`` is that call. With ``stop`` it is an error too, at the call: NonFiniteError. In a
    backward, the line is that of the forward call whose derivative was being taken.

    >>> import plait
    >>> with NanFinder() as finder:
    ...     y = plait.log(plait.tensor([1.0, -1.0])) + 1
    >>> finder.first.operator, finder.first.elements
    ('aten::log', 1)
    """

    def __init__(self, *, stop: bool = False, infinities: bool = False) -> None:
        super().__init__()
        self.first: NanOrigin | None = None
        self.stop = stop
        self.infinities = infinities

    def __plait_dispatch__(
        self, op: Overload, types: tuple[type, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = () if self.first is not None else (*args, *kwargs.values())
        clean = self.first is None and not any(
            self._count(t) for t in self._read(op, given, kwargs)
        )
        out = op(*args, **kwargs)
        if clean:
            self._check(op, out)
        return out

    def _read(self, op: Overload, given: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The tensors that the operator reads: memory that is only written may hold anything."""
        unread = {id(kwargs[a.name]) for a in op.schema.kwonly if a.is_write}
        if op.name == "copy_":
            unread.add(id(given[0]) if given else 0)
        return tensors_of([value for value in given if id(value) not in unread])

    def _count(self, tensor: Any) -> int:
        array = tensor._array
        if array is None or not (tensor._dtype.is_floating or tensor._dtype.is_complex):
            return 0
        if array.dtype.kind == "V":
            array = array.astype(np.float32)
        found = ~np.isfinite(array) if self.infinities else np.isnan(array)
        return int(np.count_nonzero(found))

    def _check(self, op: Overload, out: Any) -> None:
        if op.name.startswith(("empty", "new_empty")):
            return
        for tensor in tensors_of(out):
            count = self._count(tensor)
            if count:
                shape = tuple(int(size) for size in tensor.shape)
                what = "NaN or infinite values" if self.infinities else "NaN"
                origin = NanOrigin(op.qualname, what, count, shape, place(), phase())
                self.first = origin
                if self.stop:
                    raise NonFiniteError(f"{origin}; expected finite values.")
                return
