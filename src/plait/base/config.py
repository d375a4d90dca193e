"""Settings of the process; the only module that reads the environment.

Owns the `config` object. Each setting is an attribute, read from its variable at first use and kept
from then on; assigning replaces it, and `config.override(...)` replaces it for a while. Must not
know what a setting does.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Self, TypeVar, overload

from plait.base.errors import InvalidArgument

__all__ = ["Config", "Setting", "config"]

T = TypeVar("T")


class Setting(Generic[T]):
    """One setting: its variable, how the text is read, and the default without the variable.

    A non-data descriptor: the value found at first use is stored under the same name in the
    instance, so later reads are plain attribute reads, and deleting the attribute makes the next
    read look at the environment again.
    """

    __slots__ = ("default", "doc", "name", "read", "variable")

    def __init__(
        self, variable: str, read: Callable[[str], T], default: Callable[[], T], doc: str
    ) -> None:
        self.variable = variable
        self.read = read
        self.default = default
        self.doc = doc
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        text = os.environ.get(self.variable)
        value = self.default() if text is None or not text.strip() else self._parse(text.strip())
        instance.__dict__[self.name] = value
        return value

    def _parse(self, text: str) -> T:
        try:
            return self.read(text)
        except ValueError as error:
            raise InvalidArgument(
                f"config: variable {self.variable} = {text!r} cannot be used; {error}."
            ) from error


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError("expected 1 or 0")


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise ValueError(
                f"expected an integer >= {low}" + ("" if high is None else f" and <= {high}")
            )
        return value

    return read


def _one_of(*choices: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value not in choices:
            raise ValueError(f"expected one of {choices}")
        return value

    return read


def _kinds(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _quota() -> int | None:
    """Processors that the control group grants, rounded up, or None where there is no limit to be
    read.
    """
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


def _available_processors() -> int:
    """Processors this process may use: its affinity mask, and no more than its control group
    grants.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )
    quota = _quota()
    return count if quota is None else min(count, quota)


def _cache_directory() -> str:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "plait")


class Config:
    """The settings; `config` is the one instance of the process.

    >>> with config.override(opt_level=1):
    ...     config.opt_level
    1
    """

    num_threads = Setting(
        "PLAIT_NUM_THREADS", _integer(1), _available_processors, "threads of compiled code"
    )
    verify = Setting("PLAIT_VERIFY", _boolean, lambda: False, "check every IR between passes")
    log = Setting(
        "PLAIT_LOG",
        _kinds,
        lambda: frozenset[str](),
        "event kinds to print, comma-separated, or 'all'",
    )
    fusion_off = Setting(
        "PLAIT_FUSION_OFF",
        _kinds,
        lambda: frozenset[str](),
        "kinds of fusion to leave out, comma-separated, or 'all'",
    )
    opt_level = Setting(
        "PLAIT_OPT_LEVEL", _integer(0, 3), lambda: 3, "LLVM optimisation level of kernels"
    )
    vector_bits = Setting(
        "PLAIT_VECTOR_BITS", _one_of(0, 128, 256, 512), lambda: 0, "SIMD width; 0: the machine's"
    )
    cache = Setting("PLAIT_CACHE", _boolean, lambda: True, "keep compiled code on disk")
    cache_dir = Setting(
        "PLAIT_CACHE_DIR", os.path.expanduser, _cache_directory, "where compiled code is kept"
    )
    cache_mb = Setting(
        "PLAIT_CACHE_MB", _integer(1), lambda: 256, "how much of it is kept, in megabytes"
    )
    dump_dir = Setting(
        "PLAIT_DUMP_DIR", os.path.expanduser, lambda: "", "write listings here; empty: nowhere"
    )
    recompile_limit = Setting(
        "PLAIT_RECOMPILE_LIMIT", _integer(1), lambda: 8, "entries kept per function"
    )
    fuel = Setting(
        "PLAIT_FUEL",
        _integer(-1),
        lambda: -1,
        "rewrites allowed, to find a guilty one; -1: no limit",
    )

    @classmethod
    def settings(cls) -> dict[str, Setting[object]]:
        """All settings by attribute name, in order."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.settings():
            raise InvalidArgument(
                f"config: no setting {name!r}; expected one of {', '.join(self.settings())}."
            )
        self.__dict__[name] = value

    @contextlib.contextmanager
    def override(self, **values: object) -> Iterator[None]:
        """Replace settings inside a with-statement; restored in whatever way it is left."""
        previous = dict(self.__dict__)
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield
        finally:
            for name in values:
                self.__dict__.pop(name, None)
                if name in previous:
                    self.__dict__[name] = previous[name]


config = Config()
