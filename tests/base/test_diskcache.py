"""The cache on disk: whatever is wrong with it is a reason and a miss, never an error or a wrong
answer.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from plait.base import diskcache, log
from plait.base.config import config
from plait.base.diskcache import DiskCache, disk_cache, entry_name
from plait.base.hashing import KeyBuilder

PAYLOAD = bytes(range(256)) * 20


def key(code="add", **facts):
    made = KeyBuilder().add("code", code)
    for name, fact in {"cpu": "zen4", "level": 3, **facts}.items():
        made.add(name, fact)
    return made


@pytest.fixture
def cache(tmp_path):
    log.clear()
    return DiskCache(tmp_path / "cache", 1 << 20)


def stored(cache, **facts):
    assert cache.put(key(**facts), "kernel", PAYLOAD)
    return cache.folder / entry_name(key(**facts))


def last_reason():
    return log.events("cache")[-1].reason


def reasons():
    return [event.reason for event in log.events("cache")]


# What is stored -----------------------------------------------------------------------------------


def test_what_was_put_is_found_by_another_object(cache):
    stored(cache)
    assert DiskCache(cache.root, 1 << 20).get(key(), "kernel") == PAYLOAD
    assert last_reason() == "hit"


def test_an_empty_payload_is_not_a_miss(cache):
    assert cache.put(key(), "kernel", b"")
    assert cache.get(key(), "kernel") == b""


def test_uses_are_counted_in_the_entry(cache):
    stored(cache)
    for _ in range(3):
        assert cache.get(key(), "kernel") == PAYLOAD
    (entry,) = cache.entries()
    assert (entry.uses, entry.label, entry.problem) == (3, "kernel", None)
    assert entry.ingredients == key().ingredients()


def test_folder_and_files_are_the_owners_alone(cache):
    path = stored(cache)
    modes = [p.stat().st_mode & 0o777 for p in (cache.root, cache.folder, path)]
    assert modes == [0o700, 0o700, 0o600]


def test_a_miss_names_the_first_ingredient_that_differs(cache):
    assert cache.get(key(), "kernel") is None
    assert last_reason() == "miss: nothing like it is stored"
    stored(cache)
    assert cache.get(key(level=1, cpu="zen4"), "kernel") is None
    assert last_reason().startswith("miss: ingredient 'level' differs: 3 against 1")
    assert cache.get(key(cpu="apple-m1"), "kernel") is None
    assert "'cpu' differs: 'zen4' against 'apple-m1'" in last_reason()
    assert cache.get(key("mul"), "kernel") is None
    assert last_reason() == "miss: nothing like it is stored"


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 8, 55, 56, 57, 100, 300, -1])
def test_a_truncated_entry_is_dropped(cache, length):
    path = stored(cache)
    path.write_bytes(path.read_bytes()[:length])
    assert cache.get(key(), "kernel") is None
    assert "dropped: it is cut off" in last_reason() and not path.exists()
    stored(cache)
    assert cache.get(key(), "kernel") == PAYLOAD


def test_a_flipped_bit_anywhere_is_noticed(cache):
    path = stored(cache)
    whole = path.read_bytes()
    for position in [*range(0, 300), *range(300, len(whole), 97)]:
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        assert cache.get(key(), "kernel") is None, position
        assert last_reason().startswith("dropped: ")


@pytest.mark.parametrize("garbage", [b"\0" * 5000, os.urandom(5000), b"plaitobj" + b"\xff" * 5000])
def test_garbage_is_dropped(cache, garbage):
    path = stored(cache)
    path.write_bytes(garbage)
    assert cache.get(key(), "kernel") is None
    assert last_reason().startswith("dropped: ")


def test_the_entry_of_another_key_is_dropped(cache):
    path = stored(cache, level=1)
    path.rename(cache.folder / entry_name(key()))
    assert cache.get(key(), "kernel") is None
    assert last_reason() == "dropped: it is the entry of another key"


def test_another_format_is_not_read(cache, monkeypatch):
    monkeypatch.setattr(diskcache, "FORMAT", 7)
    path = stored(cache)
    monkeypatch.undo()
    assert cache.get(key(), "kernel") is None
    assert "format is 7; this version reads 1" in last_reason() and not path.exists()


def test_the_folder_of_another_version_is_left_alone_and_counted(cache):
    older = cache.root / "objects-v0"
    older.mkdir(parents=True)
    (older / "something").write_bytes(b"of another make")
    stored(cache)
    assert cache.get(key(), "kernel") == PAYLOAD
    problems = {entry.path.parent.name: entry.problem for entry in cache.entries()}
    assert problems == {"objects-v0": "it is cut off after 15 bytes", "objects-v1": None}
    assert cache.clear() == 2


def test_damaged_entries_are_listed_with_what_is_wrong(cache):
    stored(cache).write_bytes(b"short")
    (entry,) = cache.entries()
    assert entry.problem == "it is cut off after 5 bytes"


# Trust --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770])
def test_a_folder_that_others_may_write_to_is_refused(cache, mode):
    stored(cache)
    cache.folder.chmod(mode)
    fresh = DiskCache(cache.root, 1 << 20)
    assert fresh.get(key(), "kernel") is None
    assert not fresh.put(key(), "kernel", PAYLOAD)
    assert last_reason().startswith("bypass: others may write to the folder")


def test_a_file_that_others_may_write_to_is_refused(cache):
    stored(cache).chmod(0o666)
    assert cache.get(key(), "kernel") is None
    assert last_reason().startswith("refused: others may write to the file (mode 666)")


def test_what_belongs_to_another_user_is_refused(cache, monkeypatch):
    stored(cache)
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert cache.get(key(), "kernel") is None
    assert last_reason() == f"refused: the file belongs to user {own}, not to {own + 1}"
    assert DiskCache(cache.root, 1 << 20).get(key(), "kernel") is None
    assert last_reason().startswith("bypass: the folder") and f"user {own}" in last_reason()


def test_a_link_in_place_of_an_entry_is_not_followed(cache, tmp_path):
    path = stored(cache)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert cache.get(key(), "kernel") is None
    assert last_reason().startswith("miss: cannot be read")


# Folders that cannot be used ----------------------------------------------------------------------


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    assert cache.get(key(), "kernel") is None
    assert not cache.put(key(), "kernel", PAYLOAD)
    assert "cannot be made" in last_reason()


def test_a_folder_removed_meanwhile_is_made_again(cache):
    path = stored(cache)
    path.unlink()
    cache.folder.rmdir()
    cache.root.rmdir()
    assert cache.get(key(), "kernel") is None
    assert stored(cache).exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_leaves_nothing_behind(cache, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    assert cache.get(key(), "kernel") is None
    monkeypatch.setattr(os, "replace", fail)
    assert not cache.put(key(), "kernel", PAYLOAD)
    assert last_reason().startswith(f"write failed: {os.strerror(number)}")
    assert not list(cache.folder.iterdir())


def run(program: str, folder: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + program, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


PRELUDE = """
import os, sys, time
from plait.base import diskcache, log
from plait.base.hashing import KeyBuilder
cache = diskcache.DiskCache(sys.argv[1], 1 << 20)
key = KeyBuilder().add("code", "add").add("cpu", "zen4").add("level", 3)
payload = bytes(range(256)) * 20
"""


def test_a_full_disk(cache):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    asks = "print(cache.put(key, 'kernel', payload), log.events('cache')[-1].reason)"
    shown = run(limited + asks, cache.root).stdout
    assert shown.startswith("False write failed: File too large")
    assert not list(cache.folder.iterdir())


def test_a_folder_that_may_only_be_read():
    program = """
if os.getuid() == 0:  # nothing is forbidden to root
    os.setgid(65534)
    os.setuid(65534)
assert cache.get(key, "kernel") == payload, log.events("cache")
print(cache.put(key, "kernel", payload), log.events("cache")[-1].reason)
"""
    with tempfile.TemporaryDirectory() as folder:
        cache = DiskCache(Path(folder) / "cache", 1 << 20)
        path = stored(cache)
        if os.getuid() == 0:
            Path(folder).chmod(0o755)
            for owned in (cache.root, cache.folder, path):
                os.chown(owned, 65534, 65534)
        path.chmod(0o400)
        cache.folder.chmod(0o500)
        shown = run(program, cache.root)
        cache.folder.chmod(0o700)
    assert shown.stdout.startswith("False write failed: Permission denied"), shown.stderr


# Several writers ----------------------------------------------------------------------------------


def test_many_processes_write_and_read_the_same_entry(cache):
    program = """
for _ in range(200):
    assert cache.put(key, "kernel", payload)
    assert cache.get(key, "kernel") == payload
"""
    command = [sys.executable, "-c", PRELUDE + program, str(cache.root)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(p.communicate(timeout=60)[1], p.returncode) for p in running] == [(b"", 0)] * 3
    assert [path.name for path in cache.folder.iterdir()] == [entry_name(key())]
    assert cache.get(key(), "kernel") == PAYLOAD


def test_many_threads_share_one_cache(cache):
    def work():
        for level in range(30):
            cache.put(key(level=level), "kernel", PAYLOAD)
            found.append(cache.get(key(level=level), "kernel") == PAYLOAD)

    found = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 120


def test_a_writer_killed_in_the_middle_of_a_write(cache):
    program = """
def stop(*_):
    print("written", flush=True)
    time.sleep(60)
os.replace = stop
cache.put(key, "kernel", payload)
"""
    command = [sys.executable, "-c", PRELUDE + program, str(cache.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    (left,) = cache.folder.iterdir()
    assert left.name.startswith("tmp-")
    assert cache.get(key(), "kernel") is None and not list(cache.entries())
    stored(cache)  # the next writer, while the file may still have an owner
    assert left.exists()
    old = time.time() - 2 * diskcache.STALE_SECONDS
    os.utime(left, (old, old))
    stored(DiskCache(cache.root, 1 << 20))
    assert not left.exists() and cache.get(key(), "kernel") == PAYLOAD
    assert "removed what an interrupted writer left" in reasons()


# Room ---------------------------------------------------------------------------------------------


def test_the_least_recently_used_entries_go_first(tmp_path):
    small = DiskCache(tmp_path / "cache", 60_000)
    paths = [stored(small, level=level) for level in range(10)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    assert small.get(key(level=0), "kernel") == PAYLOAD  # the oldest becomes the newest
    stored(small, level=10)
    stored(small, level=11)
    left = {path.name for path in small.folder.iterdir()}
    assert entry_name(key(level=0)) in left and entry_name(key(level=11)) in left
    assert entry_name(key(level=1)) not in left
    assert sum(path.stat().st_size for path in small.folder.iterdir()) <= 60_000
    assert any(reason.startswith("evicted") for reason in reasons())


def test_an_entry_larger_than_the_limit_is_not_kept(tmp_path):
    tiny = DiskCache(tmp_path / "cache", 1000)
    assert not tiny.put(key(), "kernel", PAYLOAD)
    assert "more than the cache may hold" in last_reason()


def test_clear_takes_what_was_chosen(cache):
    stored(cache)
    stored(cache, level=1)
    assert cache.clear(lambda entry: ("level", "1") in entry.ingredients) == 1
    assert cache.get(key(), "kernel") == PAYLOAD
    assert cache.clear() == 1 and not list(cache.entries())


# Settings -----------------------------------------------------------------------------------------


def test_settings_choose_the_folder_and_switch_it_off(tmp_path, monkeypatch):
    with config.override(cache=True, cache_dir=str(tmp_path), cache_mb=3):
        made = disk_cache()
        assert made is disk_cache() and (made.root, made.limit) == (tmp_path, 3 << 20)
    with config.override(cache=False):
        assert disk_cache() is None


def test_the_default_folder_follows_the_desktop_standard(monkeypatch):
    monkeypatch.delenv("PLAIT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    fresh = type(config)()
    assert fresh.cache_dir == "/somewhere/plait"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert type(config)().cache_dir == "/home/me/.cache/plait"
