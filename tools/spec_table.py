"""A pytest plugin: which test shows which row of the behaviour specifications, and its outcome.

python -m pytest -p tools.spec_table -m spec [--spec-json=PATH]

A test names its rows with ``@pytest.mark.spec("E1")``. The table lists every row that a test names,
and the rows of `ROWS` that none does; the JSON file is a list of {id, test, outcome}.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ROWS"]

ROWS = {
    "E": (14, "dispatcher, Python key and modes"),
    "A": (16, "custom operators"),
}
"""Letter -> (number of rows, subject): each of these rows must have a test."""

_SEVERITY = ("passed", "skipped", "failed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--spec-json", metavar="PATH", help="write {id, test, outcome} records")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hang the rows on each test, where reports carry them from workers too."""
    for item in items:
        for mark in item.iter_markers("spec"):
            item.user_properties.append(("spec", mark.args[0]))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(config.getoption("--spec-json")), "spec_table")


class _Table:
    """Gathers reports in the controlling process and prints them."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.outcomes: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = re.sub(r"\[.*\]$", "", report.nodeid)
        for name, row in report.user_properties:
            if name == "spec" and (report.when == "call" or report.outcome != "passed"):
                seen = self.outcomes.get((row, test), "passed")
                self.outcomes[row, test] = max(seen, report.outcome, key=_SEVERITY.index)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        records = self.records()
        write = terminalreporter.write_line
        terminalreporter.section("rows of the specifications")
        shown = ""
        for record in records:
            row = record["id"] if record["id"] != shown else ""
            shown = record["id"]
            write(f"{row:4} {record['outcome']:8} {record['test']}")
        missing = [r["id"] for r in records if r["outcome"] == "missing"]
        named = len({r["id"] for r in records}) - len(missing)
        write(f"{named} rows have a test; without one: {', '.join(missing) or 'none'}")
        if self.path:
            _write(Path(self.path), records)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if any(r["outcome"] == "missing" for r in self.records()) and not session.exitstatus:
            session.exitstatus = 1

    def records(self) -> list[dict[str, str]]:
        """One record per row and test, then the rows without a test."""
        found = [{"id": i, "test": t, "outcome": o} for (i, t), o in self.outcomes.items()]
        named = {record["id"] for record in found}
        every = (f"{letter}{k}" for letter, (n, _) in ROWS.items() for k in range(1, n + 1))
        found += [{"id": i, "test": "", "outcome": "missing"} for i in every if i not in named]
        return sorted(found, key=_order)


def _order(record: dict[str, str]) -> tuple[str, int, str]:
    return record["id"][0], int(record["id"][1:]), record["test"]


def _write(path: Path, records: Iterable[dict[str, str]]) -> None:
    """Write whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(list(records), file, indent=1)
    os.replace(file.name, path)
