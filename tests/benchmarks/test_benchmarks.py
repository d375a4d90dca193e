"""The benchmarks import and compute what they say; their speed is not measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure, memory, report, run, systems
from benchmarks.workloads import (
    attention,
    blocks,
    calls,
    gpt,
    kernels,
    operators,
    products,
    science,
    starts,
    text,
    training,
)

GROUPS = {
    "kernels": kernels,
    "products": products,
    "attention": attention,
    "training": training,
    "blocks": blocks,
    "calls": calls,
    "operators": operators,
    "science": science,
}
ROOT = Path(__file__).resolve().parents[2]
WORKS = [(group, work) for group, module in GROUPS.items() for work in module.WORKS]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(kernels, "ROWS", 8)
    monkeypatch.setattr(science, "POINTS", 100)
    for name, value in {"BATCH": 2, "LENGTH": 8, "WIDTH": 16, "TENSORS": 5}.items():
        monkeypatch.setattr(blocks, name, value)
    for name, work in attention.WORKS.items():
        monkeypatch.setitem(attention.WORKS, name, work._replace(batch=2, length=9, width=8))
    monkeypatch.setitem(products.WORKS, "gelu_grads_large", (4, 3, 5))


@pytest.mark.parametrize(("group", "work"), WORKS, ids=lambda v: str(v))
@pytest.mark.parametrize("system", ["plait_eager", "plait_compiled", "torch_eager"])
def test_work_is_computed_rightly(system, group, work, small):
    if missing := systems.missing_package(system):
        pytest.skip(f"{missing} is not installed")
    assert GROUPS[group].check(systems.SYSTEMS[system](1), work) < 1e-4


PEER = """
import json, sys
from benchmarks import systems
from benchmarks.workloads import blocks, products, science
science.POINTS, blocks.BATCH, blocks.LENGTH, blocks.WIDTH, blocks.TENSORS = 100, 2, 8, 16, 5
name = sys.argv[1]
made = systems.SYSTEMS[name](1)
works = [
    (products, "gelu_grads_small"),
    (blocks, "transformer_block_step"),
    (blocks, "adamw_200_tensors"),
    (science, "equation_of_state"),
]
print(json.dumps({w: group.check(made, w) for group, w in works if systems.does(name, w)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", ["jax", "numba", "onnxruntime"])
def test_peers_compute_what_was_written_for_them(system):
    """In a process of their own, as they are measured: JAX warns of every fork from then on."""
    if missing := systems.missing_package(system):
        pytest.skip(f"{missing} is not installed")
    command = [sys.executable, "-c", PEER, system]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert differences and max(differences.values()) < 1e-4, differences
    assert not {"jax", "numba", "onnxruntime"} & set(sys.modules)


def test_systems_without_a_work_are_left_out_of_it():
    assert systems.does("numba", "equation_of_state")
    assert not systems.does("onnxruntime", "equation_of_state")
    assert systems.does("plait_compiled", "softmax")
    assert not systems.does("jax", "attention_512")


@pytest.mark.parametrize("model", memory.MODELS)
def test_saved_bytes_fall_from_way_to_way(model, monkeypatch):
    for name, value in {"BATCH": 2, "LENGTH": 8, "WIDTH": 16, "ROWS": 4, "HIDDEN": 8}.items():
        monkeypatch.setattr(memory, name, value)
    rows = {way: (saved, again) for way, saved, again, _ in memory.measure(model, 0.0)}
    kept, cut, half, none, again = rows.values()
    assert kept[0] >= cut[0] > half[0] > none[0] == again[0] == 0
    assert cut[0] * 0.5 >= half[0]
    assert kept[1] == 0 <= cut[1] <= half[1] <= none[1]


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
    for start in starts.WORKS.values():
        for name in start.systems:
            text = start.program.format(
                system=name, threads=1, package=systems.SYSTEMS[name].package
            )
            compile(text, "program", "exec")


def test_import_of_plait_is_measured():
    assert 0 < run.run_once(starts.WORKS["import"].program, "plait_eager", 1) < 10


def test_the_first_call_of_a_gpt_is_measured_with_and_without_a_cache():
    for work in ("GPT first call, no cache", "GPT first call, from cache"):
        found = run.best_starts(starts.WORKS[work], ["plait_compiled"], 1, 1)
        assert 0 < found["plait_compiled"] < 60


def test_the_first_step_of_the_text_model_is_measured():
    work = starts.WORKS["text model whole process, from cache"]
    assert 0 < run.best_starts(work, ["plait_compiled"], 1, 1)["plait_compiled"] < 60


@pytest.mark.parametrize("system", ["plait_eager", "plait_compiled"])
def test_the_text_model_begins_with_knowing_nothing(system):
    made = systems.SYSTEMS[system](1)
    assert text.check(made, text.prepare(made)()) < 0.1


@pytest.mark.parametrize("system", ["plait_compiled", "torch_eager"])
def test_the_gpt_is_computed_rightly(system):
    if missing := systems.missing_package(system):
        pytest.skip(f"{missing} is not installed")
    made = systems.SYSTEMS[system](1)
    assert gpt.check(made, gpt.prepare(made)()) < 1e-4


def test_caches_of_measuring_processes_are_their_own(monkeypatch):
    monkeypatch.setenv("PLAIT_CACHE_DIR", "/home/me/plait")
    assert systems.environment(1, "/scratch")["PLAIT_CACHE_DIR"] == "/scratch/plait"
