"""Devices: a type name and an index. Knows nothing about memory."""

from __future__ import annotations

from plait.base.errors import ArgumentTypeError, InvalidArgument

__all__ = ["CPU", "Device", "parse"]

KNOWN_TYPES = ("cpu", "meta")


class Device:
    """Where a tensor's memory is: `Device("cpu")`, `Device("cpu", 0)`. Immutable, hashable."""

    __slots__ = ("_hash", "index", "type")

    type: str
    index: int | None

    def __init__(self, type: str, index: int | None = None) -> None:
        if ":" in type:
            type, _, digits = type.partition(":")
            if index is not None or not digits.isdigit():
                raise InvalidArgument(
                    f"Device: argument 'type' names an index badly; got {type + ':' + digits!r}"
                    f" with index={index}; expected e.g. 'cpu' or 'cpu:0'."
                )
            index = int(digits)
        if type not in KNOWN_TYPES:
            raise InvalidArgument(
                f"Device: argument 'type' is not a known device type; got {type!r}; "
                f"expected one of {', '.join(KNOWN_TYPES)}."
            )
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "_hash", hash((type, index)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Device is immutable; cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Device) and self.type == other.type and self.index == other.index

    def __hash__(self) -> int:
        return self._hash  # type: ignore[no-any-return, attr-defined]

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"

    def __reduce__(self) -> tuple[object, tuple[str, int | None]]:
        return Device, (self.type, self.index)


CPU = Device("cpu")


def parse(device: Device | str | None) -> Device:
    """Return the Device meant by a Device, a string such as "cpu" or "cpu:0", or None (CPU)."""
    if device is None:
        return CPU
    if isinstance(device, Device):
        return device
    if isinstance(device, str):
        return CPU if device == "cpu" else Device(device)
    raise ArgumentTypeError(
        f"device: expected a Device, a string or None; got {builtin_name(device)}."
    )


def builtin_name(value: object) -> str:
    """The name of a value's class, for messages."""
    return value.__class__.__name__
