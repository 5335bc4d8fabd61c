"""Outcomes of a run, without one."""

from __future__ import annotations

from typing import Any

from orchestrator.api.results import RunResult


def run_result(**changes: Any) -> RunResult:
    """Return the outcome of a complete run of two trials, with `changes`."""
    complete: dict[str, Any] = {
        **dict.fromkeys(("failed", "blocked", "skipped"), 0),
        **dict.fromkeys(("outage", "usage", "remaining"), ""),
        **dict.fromkeys(("interrupted", "budget_spent"), False),
        **dict.fromkeys(("bill", "report"), None),
        "name": "test",
        "done": 2,
        "seconds": 3.0,
        "failures": {},
    }
    return RunResult(**(complete | changes))
