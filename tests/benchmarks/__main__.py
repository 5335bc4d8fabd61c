"""`make bench`: every performance claim as a ratio, measured side by side in this one run.

python -m tests.benchmarks                  all of them
python -m tests.benchmarks pruning scale    some of them
python -m tests.benchmarks --smoke          all of them at their smallest size, without limits

The table is printed row by row. If a benchmark fails, the others go on and the exit code is 1. A
missed limit (✗) does not change the exit code, because a busy machine can cause it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from tests.benchmarks.size import VARIABLE, is_smoke
from tests.benchmarks.table import HEADER, Benchmark, Row

BENCHMARKS = (
    "pruning",
    "tickets",
    "steps",
    "trainer",
    "reading",
    "sharing",
    "scheduling",
    "scale",
    "volume",
    "batches",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--smoke", action="store_true", help="smallest size, without limits")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; use {', '.join(BENCHMARKS)}")
    os.environ[VARIABLE] = "smoke" if arguments.smoke else "full"
    begin = time.monotonic()
    with _output() as output:
        print(f"{_commit()}, {_machine()}\n", file=output, flush=True)
        benchmarks = {name: _benchmark(name) for name in arguments.names or BENCHMARKS}
        failed = print_table(benchmarks, output)
    print(f"{time.monotonic() - begin:.0f} s in all", file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def print_table(benchmarks: Mapping[str, Benchmark], output: TextIO) -> list[str]:
    """Print each row as soon as it is measured. Return the names of the benchmarks that failed."""
    failed = []
    print(HEADER, file=output, flush=True)
    for name, benchmark in benchmarks.items():
        begin, count = time.monotonic(), 0
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            for row in benchmark():
                shown = replace(row, limit="", met=None) if is_smoke() else row
                print(shown.markdown(), file=output, flush=True)
                count += 1
            if not count:
                raise ValueError(f"the benchmark {name} gave no row")
        except Exception:  # the rows of the others take minutes
            failed.append(name)
            traceback.print_exc()
        seconds = time.monotonic() - begin
        print(f"{name}: {count} rows in {seconds:.0f} s", file=sys.stderr, flush=True)
    return failed


def _output() -> TextIO:
    """Return the standard output for the table alone. What Ray Tune prints, also in other
    processes, goes to the standard error."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return output


def _benchmark(name: str) -> Benchmark:
    """Import the benchmark only when it runs: one that cannot be imported has failed."""

    def run() -> Iterator[Row]:
        yield from importlib.import_module(f"tests.benchmarks.{name}").run()

    return run


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=, changed", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"
    return f"commit {done.stdout.strip()}"


def _machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "deepspeed"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {cpu}, {memory_gib:.0f} GiB, {versions}"


if __name__ == "__main__":
    main()
