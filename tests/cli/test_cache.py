"""`plait cache`: what is shown of a folder, and what is removed."""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest
from typer.testing import CliRunner

import plait
from plait.backends.llvm.native import objects
from plait.base import log
from plait.base.config import config
from plait.base.diskcache import disk_cache, entry_name
from plait.base.errors import InvalidArgument
from plait.base.hashing import KeyBuilder
from plait.cli import app


def run(*arguments: str, code: int = 0, columns: int = 160) -> str:
    shown = CliRunner().invoke(app, ["cache", *arguments], env={"COLUMNS": str(columns)})
    if isinstance(shown.exception, InvalidArgument):
        raise shown.exception
    assert shown.exit_code == code, shown.output
    return shown.output


@pytest.fixture
def folder(tmp_path):
    with config.override(cache_dir=str(tmp_path / "cache"), cache=True):
        yield tmp_path / "cache"


_numbers = itertools.count(1)


def compile_something() -> None:
    """A function that this process has not compiled before."""
    number = 1.2345 + next(_numbers)
    plait.compile(lambda x: x * number + 2.3456)(plait.ones(31))


def foreign_key() -> KeyBuilder:
    """The key of a kernel made on another machine."""
    key = KeyBuilder().add("code", "t0 = load f32")
    for name, fact in {"level": config.opt_level, **objects.circumstances()}.items():
        key.add(name, "pentium" if name == "cpu" else fact)
    return key


@pytest.fixture
def filled(folder):
    """One function of this machine's, one kernel of another's, and one file of nobody's."""
    compile_something()
    cache = disk_cache()
    assert cache.put(foreign_key(), "kernel other", b"code" * 999)
    (cache.folder / "0123-garbage").write_bytes(b"?")
    return cache


def entries() -> list[dict[str, object]]:
    return json.loads(run("ls", "--json"))["entries"]


def test_an_empty_cache(folder):
    assert "0 entries, 0 B of 256.0 MB" in run("ls")
    assert json.loads(run("ls", "--json"))["entries"] == []
    assert "removed 0 entries" in run("clear")


def test_ls_shows_what_each_entry_is(filled):
    shown = run("ls")
    for text in ("kernel mul_add", "driver forward", "kernel other", "cut off after 1 bytes"):
        assert text in shown
    assert str(filled.root) in shown.replace("\n", "")


def test_a_narrow_terminal_folds_names_and_cuts_nothing_off(folder):
    label = "kernel " + "_".join(["native_layer_norm"] * 4)
    cache = disk_cache()
    assert cache.put(foreign_key(), label, b"code")
    shown = run("ls", columns=60)
    assert "…" not in shown and "problem" not in shown
    assert all(len(row) <= 60 for row in shown.splitlines())
    parts = [part for row in shown.splitlines() for part in row.split() if part in label]
    assert "".join(parts).endswith(label.split()[1])


def test_ls_says_when_the_cache_is_off(filled):
    with config.override(cache=False):
        assert "switched off: PLAIT_CACHE=0" in run("ls")
        assert json.loads(run("ls", "--json"))["enabled"] is False


def test_ls_counts_uses_and_sorts_by_the_last_one(filled):
    path = filled.folder / entry_name(foreign_key())
    assert filled.get(foreign_key(), "kernel other") == b"code" * 999
    os.utime(path, (time.time() + 50, time.time() + 50))
    first = entries()[0]
    assert (first["label"], first["uses"], first["problem"]) == ("kernel other", 1, None)
    assert {e["uses"] for e in entries()[1:]} == {0}


def test_clear_takes_one_key_the_damaged_or_all(filled):
    count = len(entries())
    assert "removed 1 entry" in run("clear", "--damaged")
    assert "removed 1 entry" in run("clear", entry_name(foreign_key())[:12])
    assert "kernel other" not in run("ls") and len(entries()) == count - 2
    run("clear")
    assert entries() == []


def test_after_clear_a_function_compiles_again(folder):
    compile_something()
    run("clear")
    log.clear()
    compile_something()
    assert any(e.reason.startswith("miss") for e in log.events("cache"))


def test_explain_says_what_differs_from_this_machine(filled):
    shown = run("explain", entry_name(foreign_key())[:12])
    assert "differs in cpu" in shown and "'pentium'" in shown and "t0 = load f32" in shown
    told = json.loads(run("explain", entry_name(foreign_key()), "--json"))
    assert told["differs"] == ["cpu"] and told["ingredients"]["cpu"] == "'pentium'"


def test_explain_of_our_own_entry_differs_in_nothing(filled):
    for entry in entries():
        if entry["label"] in ("kernel mul_add", "driver forward"):
            assert "would be used here" in run("explain", entry["key"])


def test_explain_shows_another_level(filled):
    (key,) = [e["key"] for e in entries() if e["label"] == "kernel mul_add"]
    with config.override(opt_level=1):
        assert "differs in level" in run("explain", key)


def test_explain_of_all_counts_entries_by_what_differs(filled):
    shown = run("explain")
    assert "1 entry: cpu differs" in shown and "1 entry: cannot be read or trusted" in shown
    told = json.loads(run("explain", "--json"))
    assert told["here"]["vector_bits"] == str(objects.host().vector_bits)
    assert sum(told["entries"].values()) == len(entries())


def test_explain_of_a_damaged_entry(filled):
    assert "cannot be used: it is cut off after 1 bytes" in run("explain", "0123")


def test_explain_wants_one_key(filled):
    with pytest.raises(InvalidArgument, match="0 keys begin with 'zzz'"):
        run("explain", "zzz")
