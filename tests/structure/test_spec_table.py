"""The table of specification rows: outcomes are joined per test, rows without a test are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from tools.spec_table import ROWS, _Table, _write


def report(test: str, row: str, outcome: str, when: str = "call") -> SimpleNamespace:
    return SimpleNamespace(nodeid=test, user_properties=[("spec", row)], outcome=outcome, when=when)


def test_worst_outcome_of_a_test_counts_and_missing_rows_are_listed(tmp_path: Path) -> None:
    table = _Table(None)
    table.pytest_runtest_logreport(report("t.py::a[1]", "E1", "passed"))
    table.pytest_runtest_logreport(report("t.py::a[2]", "E1", "failed"))
    table.pytest_runtest_logreport(report("t.py::b", "E2", "skipped", when="setup"))
    table.pytest_runtest_logreport(report("t.py::c", "E3", "passed", when="setup"))
    _write(tmp_path / "rows.json", table.records())
    records = json.loads((tmp_path / "rows.json").read_text())
    assert {"id": "E1", "test": "t.py::a", "outcome": "failed"} in records
    assert {"id": "E2", "test": "t.py::b", "outcome": "skipped"} in records
    assert {"id": "E3", "test": "", "outcome": "missing"} in records
    assert len(records) == sum(count for count, _ in ROWS.values())
