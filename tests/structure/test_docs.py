"""Generated pages are current; the README's and the docstrings' code runs; links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest

from tools import docs
from tools.source_tree import ROOT, sources

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
SESSIONS = [p for p in PAGES if p != README and ">>> " in p.read_text(encoding="utf-8")]
WITH_DOCTESTS = [s.module for s in sources() if ">>>" in s.text and "interop" not in s.module]


def test_generated_pages_are_current():
    stale = [
        str(path.relative_to(ROOT))
        for path, text in docs.pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"say make docs, and commit: {stale}"


def test_every_error_page_belongs_to_an_error():
    expected = {path.name for path in docs.error_pages()}
    assert {p.name for p in (ROOT / "docs" / "errors").glob("*.md")} == expected


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.strip().splitlines()[0][:40])
def test_readme_code_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    above = README.read_text(encoding="utf-8").partition(block)[0].count("\n")
    source = "\n" * above + block  # at its own lines: formulas are read from the file
    exec(compile(source, str(README), "exec"), {"__name__": "readme"})


def test_readme_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README.read_text(encoding="utf-8")))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", SESSIONS, ids=lambda p: p.stem)
def test_pages_with_sessions(page):
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", WITH_DOCTESTS)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_layout_names_every_folder():
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    folders = {p.name for p in (ROOT / "src" / "plait").iterdir() if (p / "__init__.py").exists()}
    missing = sorted(f for f in folders if f"{f}/" not in text)
    assert not missing, f"docs/layout.md does not say what is in {missing}"
