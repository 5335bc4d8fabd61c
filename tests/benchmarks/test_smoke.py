"""Every benchmark runs, at its smallest size; and a failure costs only the failed benchmark."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, print_table
from tests.benchmarks.table import HEADER, Row

ROOT = Path(__file__).parents[2]
GOOD = Row(what="a", ours="1 s", other="b: 2 s", ratio="2.0x", limit="≥ 1", met=True)


def breaks_later() -> Iterator[Row]:
    yield GOOD
    raise RuntimeError("after the first row")


def test_rows_before_and_after_a_failure_are_printed() -> None:
    def good() -> Iterator[Row]:
        yield GOOD

    output = io.StringIO()
    benchmarks = {"first": breaks_later, "empty": lambda: iter(()), "last": good}
    assert print_table(benchmarks, output) == ["first", "empty"]
    line = "| a | 1 s | b: 2 s | 2.0x | ≥ 1 ✓ |"
    assert output.getvalue() == f"{HEADER}\n{line}\n{line}\n"


def test_a_row_is_printed_before_the_next_is_measured() -> None:
    output = io.StringIO()

    def interrupted() -> Iterator[Row]:
        yield GOOD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        print_table({"interrupted": interrupted}, output)
    assert output.getvalue().endswith("| 2.0x | ≥ 1 ✓ |\n")


@pytest.mark.slow
def test_every_benchmark_gives_rows_at_its_smallest_size() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--smoke"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    machine, empty, *table = done.stdout.splitlines()
    assert machine.startswith("commit ")
    assert empty == ""
    header, rows = table[:2], table[2:]
    assert "\n".join(header) == HEADER
    assert len(rows) >= len(BENCHMARKS)
    for row in rows:
        what, ours, other, _, limit = (cell.strip() for cell in row.strip("|").split("|"))
        assert what
        assert ours
        assert other
        assert limit == "", "a smoke run has no limits"
