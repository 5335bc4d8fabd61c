"""A small finished sweep, for tests that inspect one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from tests.support.harness import CommandResult, Home


def tiny_sweep() -> dict[str, Any]:
    """13 training runs of 4 steps: two levels of IMP from theta_0 and theta_2, with controls."""
    study = {
        "model": "uniter-tiny",
        "task": "easy_vqa",
        "recipe": "four",
        "seed": [0],
        "rewind": [0, 2],
        "schedule": {"rate": 0.3, "levels": 2},
        "controls": ["random", "random_layerwise"],
    }
    recipe = {"steps": 4, "batch_size": 16, "eval_examples": 256}
    return {"name": "tiny", "recipes": {"four": recipe}, "studies": {"main": study}}


@dataclass(frozen=True, slots=True)
class FinishedSweep:
    home: Home
    sweep: Path
    plan: Plan
    result: CommandResult
    records: dict[str, Record]
    """The records after the run."""
