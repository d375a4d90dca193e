"""A folder of verified, content-addressed entries: what compiled code is kept in between processes.

Owns the format of an entry, who may write to the folder, and what is thrown away when it is full.
Must not know what is stored. Entries are found by a `KeyBuilder`; its first ingredient is the
*subject* (what was compiled), the others are circumstances, so a miss can be answered by the first
circumstance that differs. Nothing here raises because of the folder: whatever is wrong with it
becomes a recorded reason (events of kind "cache") and a miss.

    magic  format  header length  payload length  SHA-256 of both | header | payload | marks

The header is pairs of texts, each after its length. Each use appends one byte, a mark: it counts
uses and makes the file the most recently used one, in one system call. Entries are machine code,
so a folder or file that another user owns or may write is refused.

Note [Atomic]: an entry is written under a temporary name and renamed, so readers see all of it or
nothing, and of two writers the last wins. It is not flushed to the disk: what a power cut leaves
fails its checksum and is compiled again. A temporary file whose writer died is removed later.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from plait.base import log
from plait.base.config import config
from plait.base.hashing import Ingredients, KeyBuilder, explain_difference

__all__ = ["FORMAT", "DiskCache", "Entry", "disk_cache", "entry_name"]

FORMAT = 1
MAGIC = b"plaitobj"
_FIXED = struct.Struct("<8sIIQ32s")
_FOLDER = "objects-v"
_TEMPORARY = "tmp-"
STALE_SECONDS = 3600
"""A temporary file of that age has lost its writer."""
_KEPT = 0.8
"""Share of the limit that is left when old entries are thrown away."""


class Entry(NamedTuple):
    """One stored thing. `problem` is why it cannot be used, or None."""

    path: Path
    label: str
    ingredients: Ingredients
    payload: bytes
    size: int
    created: float
    used: float
    uses: int
    problem: str | None = None

    @property
    def name(self) -> str:
        """Its name in the folder, which `plait cache explain` takes."""
        return self.path.name


class _Damaged(Exception):
    """What is wrong with the bytes of an entry."""


def entry_name(key: KeyBuilder) -> str:
    """The file of a key: a digest of its subject, then one of everything."""
    (_, subject), *_ = key.ingredients()
    return f"{hashlib.sha256(subject.encode()).hexdigest()[:16]}-{key.key()[:40]}"


class DiskCache:
    """The entries of one folder; any number of threads and processes may share it."""

    def __init__(self, root: str | Path, limit: int) -> None:
        self.root = Path(root)
        self.folder = self.root / f"{_FOLDER}{FORMAT}"
        self.limit = limit
        self._lock = threading.Lock()
        self._is_ready = False
        self._total: int | None = None

    # Reading --------------------------------------------------------------------------------------

    def get(self, key: KeyBuilder, label: str) -> bytes | None:
        """The payload stored under a key, or None with a recorded reason."""
        name = entry_name(key)
        if not self._usable(label):
            return None
        path = self.folder / name
        try:
            data, status = _read(path)
        except FileNotFoundError:
            log.record("cache", f"miss: {self._nearest(key, name)}", label=label, key=name)
            return None
        except OSError as error:
            log.record("cache", f"miss: cannot be read: {_words(error)}", label=label, key=name)
            return None
        problem = _foreign(status, "file")
        if problem is not None:
            log.record("cache", f"refused: {problem}", label=label, key=name)
            return None
        try:
            entry = _decode(path, data, status)
            if entry.ingredients != key.ingredients():
                raise _Damaged("it is the entry of another key")
        except _Damaged as damage:
            self.drop(key, label, str(damage))
            return None
        self._mark_used(path)
        log.record("cache", "hit", label=label, key=name)
        return entry.payload

    def drop(self, key: KeyBuilder, label: str, reason: str) -> None:
        """Remove an entry that turned out to be of no use."""
        name = entry_name(key)
        log.record("cache", f"dropped: {reason}", label=label, key=name)
        _remove(self.folder / name)

    def entries(self) -> Iterator[Entry]:
        """Everything stored, damaged entries included."""
        for path in self._files():
            try:
                data, status = _read(path)
            except OSError as error:
                yield Entry(path, "", (), b"", 0, 0.0, 0.0, 0, f"cannot be read: {_words(error)}")
                continue
            try:
                entry = _decode(path, data, status)
            except _Damaged as damage:
                size, used = status.st_size, status.st_mtime
                yield Entry(path, "", (), b"", size, used, used, 0, str(damage))
                continue
            yield entry._replace(problem=_foreign(status, "file"))

    def _nearest(self, key: KeyBuilder, name: str) -> str:
        """Why there is no entry: what differs in the newest one of the same subject."""
        subject = name.partition("-")[0]
        others = [p for p in self._files() if p.name.partition("-")[0] == subject]
        for path in sorted(others, key=_age, reverse=True):
            try:
                found = _decode(path, *_read(path))
            except (OSError, _Damaged):
                continue
            difference = explain_difference(found.ingredients, key)
            return f"{difference} (stored against wanted)"
        return "nothing like it is stored"

    # Writing --------------------------------------------------------------------------------------

    def put(self, key: KeyBuilder, label: str, payload: bytes) -> bool:
        """Store a payload; whether that succeeded (otherwise the reason is recorded)."""
        name = entry_name(key)
        if not self._usable(label):
            return False
        data = _encode(label, key.ingredients(), payload)
        if len(data) > self.limit:
            size = f"{len(data)} bytes are more than the cache may hold ({self.limit})"
            log.record("cache", f"write failed: {size}", label=label, key=name)
            return False
        temporary = self.folder / f"{_TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}"
        try:
            self._write(temporary, self.folder / name, data)
        except OSError as error:
            _remove(temporary)
            log.record("cache", f"write failed: {_words(error)}", label=label, key=name)
            return False
        self._make_room(len(data))
        return True

    def _write(self, temporary: Path, final: Path, data: bytes) -> None:
        """See Note [Atomic]."""
        try:
            number = _create(temporary)
        except FileNotFoundError:  # somebody removed the folder while we ran
            self.folder.mkdir(mode=0o700, parents=True)
            number = _create(temporary)
        with open(number, "wb") as file:
            file.write(data)
        os.replace(temporary, final)

    def clear(self, chosen: Callable[[Entry], bool] | None = None) -> int:
        """Remove all entries, or those chosen; returns how many."""
        paths = self._files() if chosen is None else [e.path for e in self.entries() if chosen(e)]
        removed = sum(_remove(path) for path in paths)
        with self._lock:
            self._total = None
        return removed

    def _mark_used(self, path: Path) -> None:
        try:
            number = os.open(path, os.O_WRONLY | os.O_APPEND | _NO_FOLLOW)
        except OSError:
            return  # a folder that we may only read: its entries keep their age
        try:
            os.write(number, b"+")
        except OSError as error:
            log.record("cache", f"write failed: {_words(error)}", key=path.name)
        finally:
            os.close(number)

    # Room -----------------------------------------------------------------------------------------

    def _make_room(self, added: int) -> None:
        """Throw the least recently used entries away when the limit is passed."""
        with self._lock:
            if self._total is None:
                self._sweep_temporaries()
                self._total = sum(_size(path) for path in self._files())
            else:
                self._total += added
            if self._total > self.limit:
                self._total = self._evict()

    def _evict(self) -> int:
        files = sorted(self._files(), key=_age)
        total, removed = sum(map(_size, files)), 0
        for path in files:
            if total <= self.limit * _KEPT:
                break
            size = _size(path)
            if _remove(path):
                total, removed = total - size, removed + 1
        log.record("cache", f"evicted {removed} entries", bytes=total, limit=self.limit)
        return total

    def _sweep_temporaries(self) -> None:
        oldest = time.time() - STALE_SECONDS
        for path in self._files(_TEMPORARY):
            if _age(path) < oldest:
                _remove(path)
                log.record("cache", "removed what an interrupted writer left", key=path.name)

    def _files(self, prefix: str = "") -> list[Path]:
        """Entries of every format, since older ones take room too; or temporary files."""
        found = []
        for folder in self.root.glob(f"{_FOLDER}*"):
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            found += [
                folder / name
                for name in names
                if name.startswith(prefix or "") and (prefix or not name.startswith(_TEMPORARY))
            ]
        return found

    # The folder -----------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Why the folder cannot be used, or None; it is made if it is missing."""
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, self.folder):
                folder.mkdir(mode=0o700, exist_ok=True)
                reason = _foreign(folder.stat(), f"folder {folder}")
                if reason is not None:
                    return reason
        except OSError as error:
            return f"folder {self.folder} cannot be made: {_words(error)}"
        return None

    def write_problem(self) -> str | None:
        """Why nothing can be stored in a folder that can be used, found out by writing."""
        temporary = self.folder / f"{_TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}"
        try:
            os.close(_create(temporary))
        except OSError as error:
            return f"folder {self.folder} cannot be written to: {_words(error)}"
        _remove(temporary)
        return None

    def _usable(self, label: str) -> bool:
        if not self._is_ready:
            reason = self.problem()
            if reason is not None:
                log.record("cache", f"bypass: {reason}", label=label)
                return False
            self._is_ready = True
        return True


_caches: dict[tuple[str, int], DiskCache] = {}


def disk_cache() -> DiskCache | None:
    """The cache that the settings ask for; None if it is switched off."""
    if not config.cache:
        return None
    where = (str(config.cache_dir), config.cache_mb << 20)
    found = _caches.get(where)
    return found if found is not None else _caches.setdefault(where, DiskCache(*where))


# Files ------------------------------------------------------------------------------------------

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    number = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    with open(number, "rb") as file:
        return file.read(), os.fstat(file.fileno())


def _foreign(status: os.stat_result, what: str) -> str | None:
    """Why a file or folder is not to be trusted with code, or None."""
    own = getattr(os, "getuid", lambda: status.st_uid)()
    if status.st_uid != own:
        return f"the {what} belongs to user {status.st_uid}, not to {own}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to the {what} (mode {stat.S_IMODE(status.st_mode):o}); chmod it"
    return None


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.record("cache", f"could not be removed: {_words(error)}", key=path.name)
        return False
    return True


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _words(error: OSError) -> str:
    return f"{error.strerror or error} ({type(error).__name__})"


# Bytes ------------------------------------------------------------------------------------------


def _encode(label: str, ingredients: Ingredients, payload: bytes) -> bytes:
    texts = [label, repr(time.time())]
    for pair in ingredients:
        texts += pair
    header = b"".join(struct.pack("<I", len(part)) + part for part in map(str.encode, texts))
    digest = hashlib.sha256(header + payload).digest()
    return _FIXED.pack(MAGIC, FORMAT, len(header), len(payload), digest) + header + payload


def _decode(path: Path, data: bytes, status: os.stat_result) -> Entry:
    """The entry in these bytes; _Damaged says what is wrong with them."""
    if len(data) < _FIXED.size:
        raise _Damaged(f"it is cut off after {len(data)} bytes")
    magic, version, head, body, digest = _FIXED.unpack_from(data)
    if magic != MAGIC:
        raise _Damaged("it is not an entry of this cache")
    if version != FORMAT:
        raise _Damaged(f"its format is {version}; this version reads {FORMAT}")
    start, end = _FIXED.size + head, _FIXED.size + head + body
    if len(data) < end:
        raise _Damaged(f"it is cut off: {len(data)} bytes of {end}")
    content = data[_FIXED.size : end]
    if hashlib.sha256(content).digest() != digest:
        raise _Damaged("its checksum does not agree with its contents")
    label, created, *rest = _texts(content[:head])
    ingredients = tuple(zip(rest[::2], rest[1::2]))
    uses, used = len(data) - end, status.st_mtime
    payload = data[start:end]
    return Entry(path, label, ingredients, payload, len(data), float(created), used, uses)


def _texts(header: bytes) -> Iterator[str]:
    position = 0
    while position < len(header):
        (length,) = struct.unpack_from("<I", header, position)
        position += 4
        yield header[position : position + length].decode()
        position += length
