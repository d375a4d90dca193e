"""`plait doctor`: each check finds what is there, and what is broken is an exit code."""

from __future__ import annotations

import json

from typer.testing import CliRunner

import plait
from plait.backends.llvm.native import blas, pool, target
from plait.base.config import config
from plait.cli import app, doctor


def run(*arguments: str, columns: int = 200):
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": str(columns)})


def findings(subject):
    return [finding for finding in doctor.examine() if finding.subject == subject]


def test_a_healthy_machine():
    shown = run()
    assert shown.exit_code == 0, shown.output
    assert "everything that plait needs works" in shown.output
    for subject in ("processor", "LLVM", "BLAS", "threads", "cache", "numpy"):
        assert subject in shown.output


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "jax" else "1")
    shown = run(columns=60).output
    assert "…" not in shown and "pip install 'plait[bench]'" in shown


def test_as_json():
    shown = run("--json")
    found = {f["subject"]: f for f in json.loads(shown.output)}
    here = target.host()
    assert here.cpu in found["processor"]["text"]
    assert str(here.vector_bits) in found["processor"]["text"]
    assert found["compiling"]["status"] == "ok"
    assert set(found["numpy"]) == {"subject", "status", "text", "advice"}


def test_a_missing_package_says_what_it_is_for_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "sklearn" else "1")
    (found,) = findings("sklearn")
    assert found.status == "missing" and "plait demo" in found.text
    assert found.advice == "pip install 'plait[demo]'"
    assert run().exit_code == 0


def test_a_needed_package_that_is_missing_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "optree" else "1")
    shown = run()
    assert shown.exit_code == 1 and "broken: optree" in shown.output


def test_versions_are_asked_of_the_distribution():
    assert doctor._version("a_module_that_nobody_has") is None
    assert doctor._version("json") == "of unknown version"


def test_a_check_that_raises_is_broken_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(target, "host", lambda: 1 / 0)
    found = {f.subject: f for f in doctor.examine()}
    assert found["processor"] == ("processor", "broken", "ZeroDivisionError: division by zero", "")
    assert found["optree"].status == "ok"


def test_a_wrong_result_is_broken(monkeypatch):
    monkeypatch.setattr(plait, "compile", lambda fn: lambda x: x)
    (found,) = findings("compiling")
    assert found.status == "broken" and "wrong result" in found.text


def test_without_a_blas(monkeypatch):
    monkeypatch.setattr(blas, "find_blas", lambda: None)
    (found,) = findings("BLAS")
    assert found.status == "note" and "scipy-openblas64" in found.advice


def test_without_threads(monkeypatch):
    monkeypatch.setattr(pool, "missing_primitives", lambda: "platform plan9 has no futex")
    (found,) = findings("threads")
    assert found.status == "note" and "plan9" in found.text


def test_the_cache_is_described(tmp_path):
    with config.override(cache_dir=str(tmp_path / "cache")):
        (found,) = findings("cache")
        assert found.status == "ok" and "writable, 0 entries" in found.text
        (tmp_path / "cache" / "objects-v1" / "garbage").write_bytes(b"?")
        assert findings("cache")[1].advice == "plait cache clear --damaged"
    with config.override(cache=False):
        assert findings("cache")[0].text == "switched off"


def test_a_cache_that_cannot_be_used_is_a_note(tmp_path):
    (tmp_path / "file").write_text("")
    with config.override(cache_dir=str(tmp_path / "file")):
        (found,) = findings("cache")
        assert found.status == "note" and "cannot be made" in found.text
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with config.override(cache_dir=str(open_to_all)):
        assert "others may write" in findings("cache")[0].text
        assert run().exit_code == 0


def test_settings_that_differ_from_the_default_are_named():
    with config.override(opt_level=1):
        assert any(f.text == "PLAIT_OPT_LEVEL = 1" for f in findings("setting"))
