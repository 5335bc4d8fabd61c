"""A benchmark's result: a ratio of two things measured side by side in one run, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    what: str
    ours: str
    other: str
    """What it is compared with, and what that took."""
    ratio: str
    limit: str = ""
    """What it should be at least or at most; empty where the row only informs."""
    met: bool | None = None


Benchmark = Callable[[], Iterable[Row]]


def markdown(rows: Iterable[Row]) -> str:
    lines = ["| what | ours | compared with | ratio | limit |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        verdict = "" if row.met is None else (" ✓" if row.met else " ✗")
        limit = f"{row.limit}{verdict}"
        lines.append(f"| {row.what} | {row.ours} | {row.other} | {row.ratio} | {limit} |")
    return "\n".join(lines)
