"""Measure plait and its peers: each system in its own process, taking turns, at equal threads.

    python benchmarks/run.py [--json PATH] [--only TEXT] [--threads 1,2] [--rounds N]
                             [--systems A,B] [--slow] [--readme]

Every work is checked before it is timed. A figure is the best of the rounds' medians: the rounds go
round the systems, so that a disturbance of the machine meets them all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import SCALE, Record, machine, markdown, table
from benchmarks.systems import SYSTEMS, does, environment, missing_package
from benchmarks.workloads import (
    attention,
    blocks,
    calls,
    kernels,
    operators,
    products,
    science,
    starts,
    training,
)

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "kernels": kernels,
    "products": products,
    "training": training,
    "attention": attention,
    "blocks": blocks,
    "calls": calls,
    "operators": operators,
    "science": science,
}
BASE = "torch_inductor"
ROUND_SECONDS = 0.4
ALLOWED_DIFFERENCE = 1e-4


class Worker:
    """A measuring process and the line of requests to it."""

    def __init__(self, name: str, threads: int, scratch: str) -> None:
        self.name = name
        self.log = open(Path(scratch) / f"{name}-{threads}.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=environment(threads, scratch),
        )
        self.version = self._read().get("version", "")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.log.close()


@contextmanager
def workers(names: list[str], threads: int, scratch: str) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = []
        for name in names:
            worker = Worker(name, threads, scratch)
            stack.callback(worker.close)
            started.append(worker)
        yield started


def measure_calls(options: argparse.Namespace, scratch: str) -> tuple[list[Record], dict[str, str]]:
    """The groups that are timed call by call."""
    records: list[Record] = []
    versions: dict[str, str] = {}
    wanted = [(g, w) for g, module in GROUPS.items() for w in module.WORKS if options.only in w]
    for threads in options.threads if wanted else ():
        with workers(options.systems, threads, scratch) as started:
            versions |= {SYSTEMS[w.name].package: w.version for w in started}
            for group, work in wanted:
                records += take_turns(started, group, work, threads, options.rounds)
    return records, versions


def take_turns(
    started: list[Worker], group: str, work: str, threads: int, rounds: int
) -> list[Record]:
    """One work on every system, in rounds; the best round of each, and its check."""
    best: dict[str, float] = {}
    differences: dict[str, float] = {}
    failed = {worker.name for worker in started if not does(worker.name, work)}
    for _ in range(rounds):
        for worker in started:
            if worker.name in failed:
                continue
            answer = worker.ask(group=group, work=work, seconds=ROUND_SECONDS)
            if "error" in answer:
                failed.add(worker.name)
                note(f"{work}: {worker.name} failed: {answer['error']}")
                continue
            if answer.get("difference", 0.0) > ALLOWED_DIFFERENCE:
                note(f"{work}: {worker.name} is WRONG by {answer['difference']:.1e}")
            best[worker.name] = min(answer["value"], best.get(worker.name, float("inf")))
            differences.setdefault(worker.name, answer.get("difference", 0.0))
    unit = GROUPS[group].UNIT
    note(
        f"{work}, {threads} threads: " + ", ".join(f"{n} {v * 1e6:.1f} us" for n, v in best.items())
    )
    scale = SCALE[unit]
    return [Record(work, n, threads, "time", v * scale, unit) for n, v in best.items()] + [
        Record(work, n, threads, "difference", d, "1") for n, d in differences.items()
    ]


def measure_starts(options: argparse.Namespace) -> list[Record]:
    """The group of what happens once: fresh processes, in turns."""
    records = []
    for work, start in starts.WORKS.items():
        if options.only not in work:
            continue
        names = [
            name
            for name in start.systems
            if name in options.systems and (options.slow or name not in start.slow)
        ]
        best = best_starts(start, names, options.threads[0], options.rounds)
        if best:
            note(f"{work}: " + ", ".join(f"{n} {v * 1e3:.2f} ms" for n, v in best.items()))
        scale, threads = SCALE[starts.UNIT], options.threads[0]
        records += [
            Record(work, n, threads, "time", v * scale, starts.UNIT) for n, v in best.items()
        ]
    return records


def best_starts(
    start: starts.Start, names: list[str], threads: int, rounds: int
) -> dict[str, float]:
    """The best of the rounds of each system; caches on disk are empty, or filled by a first run."""
    best: dict[str, float] = {}
    with ExitStack() as stack:
        kept = {}
        if start.keeps_cache:
            kept = {name: stack.enter_context(tempfile.TemporaryDirectory()) for name in names}
            for name, folder in kept.items():
                run_once(start.program, name, threads, folder)
        for _ in range(rounds):
            for name in names:
                value = run_once(start.program, name, threads, kept.get(name))
                if value is not None:
                    best[name] = min(value, best.get(name, float("inf")))
    return best


def run_once(program: str, system: str, threads: int, caches: str | None = None) -> float | None:
    """Run a program in a fresh process; the number it prints, or None.

    `caches` is the folder of caches on disk; without it they are empty.
    """
    text = program.format(system=system, threads=threads, package=SYSTEMS[system].package)
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(threads, caches or scratch),
        )
    if run.returncode:
        note(f"{system} failed: {run.stderr.strip().splitlines()[-1:]}")
        return None
    return float(run.stdout.strip().splitlines()[-1])


def note(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="PATH", help="write the figures there too")
    parser.add_argument("--only", default="", metavar="TEXT", help="works whose name holds TEXT")
    parser.add_argument("--threads", default="1,2", type=lambda t: [int(n) for n in t.split(",")])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--systems", default=",".join(SYSTEMS), type=str)
    parser.add_argument("--slow", action="store_true", help="starts that take many seconds too")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    options.systems = options.systems.split(",")
    return options


def write_readme(text: str) -> None:
    """Put the figures between the marks of the README."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split("<!-- figures -->\n")
    _, after = rest.split("<!-- /figures -->")
    path.write_text(f"{before}<!-- figures -->\n{text}\n<!-- /figures -->{after}", encoding="utf-8")


def readme_text(records: list[Record], systems: list[str], versions: dict[str, str]) -> str:
    """The table with what it was measured on and by which command."""
    facts = machine()
    others = ", ".join(f"{name} {v}" for name, v in versions.items() if name != "plait")
    return (
        f"`make bench` on {facts['processor']}, {facts['cores']} cores, Python {facts['python']}, "
        f"{others}. In brackets: times faster than {SYSTEMS[BASE].label}.\n\n"
        + markdown(records, systems, BASE)
    )


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = parse_options()
    for name in list(options.systems):
        if missing := missing_package(name):
            note(f"{SYSTEMS[name].label} is left out: {missing} is not installed.")
            options.systems.remove(name)
    with tempfile.TemporaryDirectory() as scratch:
        records, versions = measure_calls(options, scratch)
    records += measure_starts(options)
    print(f"\n{machine()['processor']}; in brackets: times faster than {SYSTEMS[BASE].label}\n")
    print(table(records, options.systems, BASE))
    if options.readme:
        write_readme(readme_text(records, options.systems, versions))
    if options.json:
        written = {
            "machine": machine(),
            "versions": versions,
            "records": [record.as_dict() for record in records],
        }
        Path(options.json).write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
