"""Machine code of the process: found in the cache on disk, or compiled and put there; then linked.

A `Unit` says what code is wanted before any of it is emitted, so a process that finds everything
emits nothing and does not even load what emits. Owns the key of machine code; must not know kernels
or plans.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plait.backends.llvm.native.jit import compile_object, link_objects
from plait.backends.llvm.native.target import host
from plait.base import log
from plait.base.account import stage
from plait.base.diskcache import DiskCache, disk_cache
from plait.base.hashing import KeyBuilder

__all__ = ["Unit", "circumstances", "generator_version", "load_units"]


@dataclass(frozen=True, slots=True)
class Unit:
    """Code that is compiled and stored as one object."""

    label: str
    """For people: what it is."""
    code: str
    """Text that determines what `build` emits, on a given machine and version of the emitter."""
    exports: tuple[str, ...]
    build: Callable[[], Any]
    """Emits the llvmlite module."""
    level: int
    facts: Mapping[str, object] = field(default_factory=dict)
    """Further ingredients of the key."""

    def key(self) -> KeyBuilder:
        """The ingredients: the code first, then what it depends on."""
        key = KeyBuilder().add("code", self.code)
        for name, fact in {**self.facts, "level": self.level, **circumstances()}.items():
            key.add(name, fact)
        return key


def circumstances() -> dict[str, object]:
    """What all machine code of this process depends on, as ingredients of keys."""
    here = host()
    return {
        "vector_bits": here.vector_bits,
        "triple": here.triple,
        "cpu": here.cpu,
        "features": here.features,
        "llvm": here.llvm_version,
        "generator": generator_version(),
    }


@functools.cache
def generator_version() -> str:
    """A digest of the sources that turn kernels and plans into code; "" where they are missing."""
    package = Path(__file__).resolve().parents[3]
    content = hashlib.sha256()
    for folder in ("backends/llvm/native", "backends/llvm/loop", "symbolic"):
        try:
            for path in sorted((package / folder).glob("*.py")):
                content.update(path.name.encode() + b"\0" + path.read_bytes())
        except OSError as error:
            log.record("cache", f"bypass: the sources of plait cannot be read: {error}")
            return ""
    return content.hexdigest()[:20]


def load_units(units: Sequence[Unit], imports: Mapping[str, int]) -> dict[str, int]:
    """Addresses of what the units export."""
    cache = disk_cache() if generator_version() else None
    if cache is None:
        log.record("cache", "bypass: no cache on disk", units=len(units))
    keys = [unit.key() for unit in units]
    with stage("cache"):
        stored = [cache.get(k, u.label) if cache else None for u, k in zip(units, keys)]
    images = [i if i is not None else _compile(u, k, cache) for u, k, i in zip(units, keys, stored)]
    exports = [name for unit in units for name in unit.exports]
    try:
        return link_objects(images, exports, imports)
    except RuntimeError as error:
        if cache is None or not any(stored):
            raise
        for unit, key, image in zip(units, keys, stored):
            if image is not None:
                cache.drop(key, unit.label, f"it could not be linked: {error}")
        images = [_compile(unit, key, cache) for unit, key in zip(units, keys)]
        return link_objects(images, exports, imports)


def _compile(unit: Unit, key: KeyBuilder, cache: DiskCache | None) -> bytes:
    with stage("emission"):
        module = unit.build()
    image = compile_object(module, unit.level)
    if cache is not None:
        with stage("cache"):
            cache.put(key, unit.label, image)
    return image
