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

    def markdown(self) -> str:
        """Return the line of the table."""
        verdict = "" if self.met is None else (" ✓" if self.met else " ✗")
        cells = (self.what, self.ours, self.other, self.ratio, f"{self.limit}{verdict}")
        return f"| {' | '.join(cells)} |"


HEADER = "| what | ours | compared with | ratio | limit |\n| --- | --- | --- | --- | --- |"

Benchmark = Callable[[], Iterable[Row]]
"""A generator of rows, so that each is printed as soon as it is measured."""
