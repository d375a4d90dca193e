"""A measuring process: one system, one thread count. Answers requests on stdin, one JSON a line.

Request {"group", "work", "seconds"} -> answer {"value": seconds per call} or {"error": text}.
The first request for a work also checks its result, and answers with "difference".
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.measure import seconds_per_call
from benchmarks.systems import SYSTEMS, System

__all__ = ["main"]


def answer(system: System, ready: dict[str, Callable[[], Any]], request: Any) -> dict[str, Any]:
    work = request["work"]
    workload = importlib.import_module(f"benchmarks.workloads.{request['group']}")
    result: dict[str, Any] = {}
    if work not in ready:
        result["difference"] = workload.check(system, work)
        ready[work] = workload.prepare(system, work)
    result["value"] = seconds_per_call(ready[work], request["seconds"])
    return result


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    # Our own copy of stdout: whatever a compiler prints goes to stderr instead.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    system = SYSTEMS[name](threads)
    ready: dict[str, Callable[[], Any]] = {}
    print(json.dumps({"version": system.version}), file=out, flush=True)
    for line in sys.stdin:
        try:
            result = answer(system, ready, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
        print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    main()
