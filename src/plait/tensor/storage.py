"""Storage: the memory that one tensor and all its views share, with its version counter.

Knows bytes and NumPy buffers; knows nothing of shapes, dtypes or tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plait.base.errors import ExchangeError, InvalidArgument
from plait.tensor.device import CPU, Device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from plait.tensor.layout import IntLike

__all__ = [
    "ALIGNMENT",
    "Storage",
    "buffer_of",
    "check_describable",
    "empty_storage",
    "fake_storage",
]

ALIGNMENT = 64


class Storage:
    """Memory shared by tensors. `version` counts in-place writes and belongs to the tape.

    Made from an array, whose first element is byte 0; the byte buffer (`owner`), the address and
    the size are worked out when first asked for. A fake has neither array nor owner, only a size
    (maybe symbolic).
    """

    __slots__ = ("_address", "_array", "_nbytes", "_owner", "device", "readonly", "version")

    def __init__(
        self,
        array: np.ndarray[Any, Any] | None,
        device: Device = CPU,
        nbytes: IntLike | None = None,
    ) -> None:
        self._array = array
        self._owner: NDArray[np.uint8] | None = None
        self._address: int | None = None
        self._nbytes = nbytes
        self.device = device
        self.version = 0
        self.readonly: bool = array is not None and not array.flags.writeable

    @property
    def owner(self) -> NDArray[np.uint8] | None:
        """The memory as a flat array of bytes, which keeps it alive; None for fakes."""
        if self._owner is None and self._array is not None:
            self._owner = _flat_bytes(self._array)
        return self._owner

    @property
    def nbytes(self) -> IntLike:
        """Size in bytes; may be symbolic for fakes."""
        if self._nbytes is None:
            owner = self.owner
            self._nbytes = 0 if owner is None else owner.nbytes
        return self._nbytes

    @property
    def address(self) -> int:
        """Address of byte 0; 0 for fakes."""
        if self._address is None:
            array = self._array
            self._address = 0 if array is None else array.__array_interface__["data"][0]
        return self._address

    @property
    def is_fake(self) -> bool:
        """Whether there is no memory behind it."""
        return self._array is None

    def __repr__(self) -> str:
        what = "fake" if self.is_fake else f"at {self.address:#x}"
        return f"<Storage of {self.nbytes} bytes on {self.device}, {what}, version {self.version}>"


class _ByteSpan:
    """Gives NumPy the bytes between an array's first and last element, whatever its strides."""

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: np.ndarray[Any, Any], nbytes: int) -> None:
        self.array = array  # keeps the memory alive
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {
            "data": (address, not array.flags.writeable),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def _flat_bytes(array: np.ndarray[Any, Any]) -> NDArray[np.uint8]:
    """The memory of `array` from its first element to its last, as bytes, without a copy."""
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        return flat.view(np.uint8)
    steps = sum((size - 1) * stride for size, stride in zip(array.shape, array.strides))
    nbytes = 0 if array.size == 0 else steps + array.itemsize
    return np.asarray(_ByteSpan(array, nbytes))


def empty_storage(nbytes: int, device: Device = CPU) -> Storage:
    """Uninitialised memory of `nbytes` bytes that starts at a multiple of 64."""
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    address = block.__array_interface__["data"][0]
    start = -address % ALIGNMENT
    return Storage(block[start : start + nbytes], device)


def fake_storage(nbytes: IntLike, device: Device = CPU) -> Storage:
    """A storage without memory."""
    return Storage(None, device, nbytes)


def check_describable(array: np.ndarray[Any, Any]) -> None:
    """Raise InvalidArgument for memory that strides in elements cannot describe, or not aligned."""
    if any(stride < 0 for stride in array.strides):
        raise InvalidArgument(
            f"from_numpy: argument 'array' has a negative stride; got strides {array.strides} in "
            "bytes; expected strides >= 0. Use array.copy()."
        )
    if array.size and any(stride % array.itemsize for stride in array.strides):
        raise InvalidArgument(
            "from_numpy: argument 'array' has strides that are not a multiple of the element size; "
            f"got {array.strides} bytes for elements of {array.itemsize}. Use array.copy()."
        )
    if not array.flags.aligned:
        raise InvalidArgument(
            "from_numpy: argument 'array' is not aligned to its element type; expected an address "
            f"that is a multiple of {array.dtype.alignment}. Use array.copy()."
        )


_WRITABLE = 1  # the flag by which a consumer asks for memory it may write to


def buffer_of(array: np.ndarray[Any, Any], flags: int) -> memoryview:
    """The array's memory by Python's buffer protocol.

    Raises ExchangeError for bfloat16, which has no format there, and for read-only memory that is
    asked for to be written to.
    """
    if array.dtype.kind == "V":
        raise ExchangeError(
            "__buffer__: bfloat16 has no format in Python's buffer protocol; expected another "
            "element type. Use tensor.numpy().view(numpy.uint16), or DLPack."
        )
    if flags & _WRITABLE and not array.flags.writeable:
        raise ExchangeError(
            "__buffer__: the tensor stands on read-only memory; got a request for writable memory. "
            "Use clone() first."
        )
    return memoryview(array)  # type: ignore[arg-type]  # NumPy declares it from 3.12 on
