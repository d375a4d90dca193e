"""Compiled code on disk: a second process compiles nothing, and whatever happens to the cache the
answers are right.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from plait.backends.llvm import structure
from plait.backends.llvm.loop.kernel import BufferParam, Kernel, Store
from plait.backends.llvm.loop.terms import Axis, make_term
from plait.backends.llvm.native import objects
from plait.backends.llvm.native.kernels import run_kernel
from plait.base import log
from plait.base.config import config
from plait.base.diskcache import DiskCache
from plait.base.hashing import KeyBuilder
from plait.symbolic.expr import const, symbol

PROGRAM = """
import json, sys
import numpy as np
import plait
from plait.base import log

@plait.compile
def step(x, w):
    return plait.softmax(plait.relu(x @ w) + 1.0, -1).sum(0)

x = np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)
w = np.linspace(1, 2, 40, dtype=np.float32).reshape(8, 5)
found = step(plait.from_numpy(x), plait.from_numpy(w)).numpy()
scores = np.exp(np.maximum(x @ w, 0) + 1)
expected = (scores / scores.sum(-1, keepdims=True)).sum(0)
emitters = [n for n in sys.modules if n.startswith("plait.backends.llvm.native.emit")]
print(json.dumps({
    "found": found.tolist(),
    "error": float(abs(found - expected).max()),
    "compiled": len(log.events("native_compile")),
    "reasons": [event.reason for event in log.events("cache")],
    "emitters": emitters,
}))
"""


def start(folder, **environment):
    """What a new process with this cache folder reports; it must have been right."""
    shown = subprocess.run(
        [sys.executable, "-c", environment.pop("program", PROGRAM)],
        env={**os.environ, "PLAIT_CACHE_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert report["error"] < 1e-5
    return report


def everything_missed(report):
    return report["compiled"] == len(report["reasons"]) > 3


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder that one process has filled, and what that process reported."""
    folder = tmp_path_factory.mktemp("objects") / "cache"
    return folder, start(folder)


@pytest.fixture
def filled(first, tmp_path):
    """A copy of that folder, to be damaged."""
    folder = tmp_path / "cache"
    subprocess.run(["cp", "-a", str(first[0]), str(folder)], check=True)
    return folder


def files(folder):
    return sorted(path for path in folder.glob("objects-v*/*"))


def test_the_first_process_compiles_and_the_second_does_not(first, filled):
    report = first[1]
    assert everything_missed(report) and len(files(filled)) == report["compiled"]
    again = start(filled)
    assert again["compiled"] == 0 and set(again["reasons"]) == {"hit"}
    assert again["found"] == report["found"]  # to the last bit


def test_a_warm_process_does_not_load_what_emits_code(filled):
    assert start(filled)["emitters"] == []


def test_damage_of_every_kind_is_compiled_again(filled):
    paths = files(filled)
    paths[0].write_bytes(b"")
    paths[1].write_bytes(os.urandom(4000))
    paths[2].write_bytes(paths[2].read_bytes()[:-700])
    report = start(filled)
    assert report["compiled"] == 3
    assert sum(reason.startswith("dropped") for reason in report["reasons"]) == 3
    assert start(filled)["compiled"] == 0


def test_code_of_another_processor_is_not_used(filled):
    report = start(filled, PLAIT_VECTOR_BITS="128")
    assert everything_missed(report)
    named = [r for r in report["reasons"] if "'vector_bits' differs" in r]
    assert len(named) == report["compiled"]


def test_another_level_misses_with_its_reason(filled):
    report = start(filled, PLAIT_OPT_LEVEL="1")
    assert any("ingredient 'level' differs: 3 against 1" in r for r in report["reasons"])
    assert 0 < report["compiled"] < len(report["reasons"])  # drivers do not depend on it


def test_switched_off_nothing_is_written(tmp_path):
    report = start(tmp_path / "cache", PLAIT_CACHE="0")
    assert set(report["reasons"]) == {"bypass: no cache on disk"} and report["compiled"] > 3
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_others_may_write_to_is_bypassed(filled):
    filled.chmod(0o777)
    report = start(filled)
    assert report["compiled"] > 3
    assert all(r.startswith("bypass: others may write") for r in report["reasons"])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    report = start(tmp_path / "cache")
    assert report["compiled"] > 3 and report["reasons"][0].startswith("bypass: folder")


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""


def test_a_full_disk_costs_nothing_but_time(tmp_path):
    report = start(tmp_path / "cache", program=LIMITED + PROGRAM)
    failed = [r for r in report["reasons"] if r.startswith("write failed: File too large")]
    assert len(failed) == report["compiled"] > 3
    assert not files(tmp_path / "cache")


KILLED = """
import os, signal
from plait.base import diskcache
diskcache.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_read(tmp_path):
    folder = tmp_path / "cache"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED + PROGRAM],
        env={**os.environ, "PLAIT_CACHE_DIR": str(folder)},
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = files(folder)
    assert left.name.startswith("tmp-") and left.stat().st_size > 100
    assert everything_missed(start(folder))
    assert start(folder)["compiled"] == 0


NOT_ROOT = """
import json, os, sys
import numpy as np
import plait
from plait.base import log
from plait.base.config import config

with config.override(cache=False):  # load all that compiles while we may read it
    plait.compile(lambda x, w: plait.relu(x @ w).sum(0) - 7.0)(plait.ones(3, 5), plait.ones(5, 6))
from plait.backends.llvm.native.objects import generator_version
generator_version()
log.clear()
if os.getuid() == 0:  # nothing is forbidden to root
    os.setgid(65534)
    os.setuid(65534)
"""


def test_a_folder_that_may_only_be_read_still_serves(first):
    with tempfile.TemporaryDirectory() as above:
        folder = os.path.join(above, "cache")
        subprocess.run(["cp", "-a", str(first[0]), folder], check=True)
        objects_folder = next(iter(pathlib.Path(folder).glob("objects-v*")))
        if os.getuid() == 0:
            os.chmod(above, 0o755)
            for path in (folder, objects_folder, *objects_folder.iterdir()):
                os.chown(path, 65534, 65534)
        objects_folder.chmod(0o500)
        report = start(folder, program=NOT_ROOT + PROGRAM)
        assert report["compiled"] == 0 and set(report["reasons"]) == {"hit"}
        other = NOT_ROOT + PROGRAM.replace("+ 1.0", "+ 1.0 * 1.5").replace(") + 1)", ") + 1.5)")
        report = start(folder, program=other)
        assert report["compiled"] > 0
        assert any(r.startswith("write failed: Permission denied") for r in report["reasons"])
        objects_folder.chmod(0o700)


def test_two_processes_fill_one_folder_at_once(tmp_path):
    environment = {**os.environ, "PLAIT_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", PROGRAM]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert [report["error"] < 1e-5 for report in reports] == [True, True]
    assert start(tmp_path / "cache")["compiled"] == 0


def test_names_do_not_depend_on_what_was_compiled_before(tmp_path):
    before = "import plait\nplait.compile(lambda x: x.cos() * 3)(plait.ones(5))\n"
    start(tmp_path / "cache")
    report = start(tmp_path / "cache", program=before + PROGRAM)
    assert report["compiled"] == 2  # the kernel and the driver of the other function


# In this process ----------------------------------------------------------------------------------


def double(number, extent=7):
    """A kernel that nobody else compiles: b1[i] = b0[i] * number."""
    axis = Axis("i0", const(extent))
    load = make_term("load", "f64", (), (0, axis.symbol))
    value = make_term("mul", "f64", (load, make_term("const", "f64", (), number)))
    buffers = (BufferParam("f64", "in"), BufferParam("f64", "out"))
    return Kernel("double", buffers, (), (axis,), (Store(1, axis.symbol, value, 1),))


def test_an_object_that_cannot_be_linked_is_compiled_again(tmp_path):
    """Bytes that pass the checksum and are no object: somebody else's linker, or our own fault."""
    with config.override(cache_dir=str(tmp_path / "cache")):
        log.clear()
        kernel = double(1234.5)
        text = structure.kernel_text(kernel)
        name = f"plait_kernel_{structure.digest(text)}"
        unit = objects.Unit("kernel double", text, (name,), lambda: None, config.opt_level)
        assert DiskCache(tmp_path / "cache", 1 << 20).put(unit.key(), unit.label, b"no object")
        out = np.zeros(7)
        run_kernel(kernel, [np.arange(7.0), out])
    assert out.tolist() == [1234.5 * k for k in range(7)]
    reasons = [event.reason for event in log.events("cache")]
    assert reasons[0] == "hit" and reasons[1].startswith("dropped: it could not be linked")


def test_without_its_sources_nothing_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "generator_version", lambda: "")
    with config.override(cache_dir=str(tmp_path / "cache")):
        out = np.zeros(7)
        run_kernel(double(77.25), [np.arange(7.0), out])
    assert out[2] == 154.5 and not (tmp_path / "cache").exists()


def test_key_has_every_ingredient_by_name():
    unit = objects.Unit("k", "text", ("k",), lambda: None, 3)
    names = [name for name, _ in unit.key().ingredients()]
    assert names == [
        "code", "level", "vector_bits", "triple", "cpu", "features", "llvm", "generator"
    ]  # fmt: skip
    assert isinstance(unit.key(), KeyBuilder) and len(objects.generator_version()) == 20


# Text of kernels ----------------------------------------------------------------------------------


def test_equal_kernels_have_one_text_whatever_their_name():
    renamed = Kernel("other", *(getattr(double(2.0), n) for n in ("buffers", "sizes", "axes")),
                     double(2.0).stores)  # fmt: skip
    assert structure.kernel_text(double(2.0)) == structure.kernel_text(renamed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (double(2.0), double(3.0)),
        (double(0.0), double(-0.0)),
        (double(float("nan")), double(-float("nan"))),
        (double(1.0), double(1)),
        (double(2.0, 7), double(2.0, 8)),
        (double(1 / 3), double(np.nextafter(1 / 3, 1).item())),
    ],
    ids=["constant", "zero", "nan", "type", "extent", "last digit"],
)
def test_different_kernels_have_different_texts(one, other):
    assert structure.kernel_text(one) != structure.kernel_text(other)


def test_bounds_of_symbols_are_part_of_the_text():
    def kernel(lower):
        axis = Axis("i0", symbol("n0", lower))
        load = make_term("load", "f32", (), (0, axis.symbol))
        buffers = (BufferParam("f32", "in"), BufferParam("f32", "out"))
        return Kernel("k", buffers, ("n0",), (axis,), (Store(1, axis.symbol, load, 1),))

    assert structure.kernel_text(kernel(0)) != structure.kernel_text(kernel(2))


def test_text_of_a_kernel_is_readable():
    *terms, kernel, bounds = structure.kernel_text(double(2.0)).splitlines()
    assert terms == [
        "t0 = load f64 () (0,<i0>,)",
        "t1 = const f64 () ('float',b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00@',)",
        "t2 = mul f64 (t0, t1) None",
    ]
    assert kernel.startswith("Kernel(buffers=(BufferParam(dtype='f64', role='in'")
    assert "axes=(Axis(name='i0', extent=<7>),)" in kernel
    assert "Store(buffer=1, offset=<i0>, value=t2, depth=1, kind='set'" in kernel
    assert bounds == "i0 in [0, 7)"


def test_dynamic_sizes_come_from_the_cache_too(tmp_path):
    program = PROGRAM.replace("@plait.compile\n", "@plait.compile(dynamic=True)\n")
    assert start(tmp_path / "cache", program=program)["compiled"] > 3
    again = start(tmp_path / "cache", program=program)
    assert again["compiled"] == 0


def test_a_backward_comes_from_the_cache_too(tmp_path):
    program = PROGRAM.replace("found = step(plait.from_numpy(x), plait.from_numpy(w)).numpy()", """
t = plait.from_numpy(x).requires_grad_()
loss = step(t, plait.from_numpy(w))
loss.sum().backward()
assert abs(t.grad.numpy()).max() < 1e-5  # every row of a softmax sums to 1
found = loss.detach().numpy()
""")  # fmt: skip
    start(tmp_path / "cache", program=program)
    assert start(tmp_path / "cache", program=program)["compiled"] == 0
