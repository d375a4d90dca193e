"""The benchmarks import and compute what they say; their speed is not measured here."""

from __future__ import annotations

import json

import pytest

from benchmarks import measure, report, run, systems
from benchmarks.workloads import calls, kernels, starts, training

GROUPS = {"kernels": kernels, "training": training, "calls": calls}
WORKS = [(group, work) for group, module in GROUPS.items() for work in module.WORKS]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(kernels, "ROWS", 8)


@pytest.mark.parametrize(("group", "work"), WORKS, ids=lambda v: str(v))
@pytest.mark.parametrize("system", ["plait_eager", "plait_compiled", "torch_eager"])
def test_work_is_computed_rightly(system, group, work, small):
    if missing := systems.missing_package(system):
        pytest.skip(f"{missing} is not installed")
    assert GROUPS[group].check(systems.SYSTEMS[system](1), work) < 1e-4


def test_median_is_positive_and_about_right():
    assert 0 < measure.seconds_per_call(lambda: sum(range(1000)), 0.01) < 1e-3


def test_table_has_ratios_to_the_base():
    record = report.Record
    records = [
        record("softmax", "plait_compiled", 1, "time", 1.0, "ms"),
        record("softmax", "torch_inductor", 1, "time", 2.0, "ms"),
        record("softmax", "torch_inductor", 1, "difference", 1e-7, "1"),
    ]
    lines = report.table(records, ["plait_compiled", "torch_inductor"], "torch_inductor")
    assert lines.splitlines()[1].split() == ["softmax", "1", "ms", "1", "(2.00x)", "2"]
    assert json.dumps([r.as_dict() for r in records])


def test_programs_of_the_start_works_are_python():
    for program, names in starts.WORKS.values():
        for name in names:
            text = program.format(system=name, threads=1, package=systems.SYSTEMS[name].package)
            compile(text, "program", "exec")


def test_import_of_plait_is_measured():
    program, _ = starts.WORKS["import"]
    assert 0 < run.run_once(program, "plait_eager", 1) < 10
