"""A benchmark's result: the ratio of two things measured side by side in one run, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    what: str
    ours: str
    other: str
    """The alternative and its measurement."""
    ratio: str
    limit: str = ""
    """Limit that the ratio must meet; empty if the row is for information only."""
    met: bool | None = None


Benchmark = Callable[[], Iterable[Row]]


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | ours | compared with | ratio | limit |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        verdict = "" if row.met is None else (" ✓" if row.met else " ✗")
        limit = f"{row.limit}{verdict}"
        lines.append(f"| {row.what} | {row.ours} | {row.other} | {row.ratio} | {limit} |")
    return "\n".join(lines)
