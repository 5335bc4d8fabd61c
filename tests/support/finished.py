"""A small sweep that has ended, for tests that look at one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from tests.support.harness import Ended, Home


def tiny() -> dict[str, Any]:
    """13 training runs of 4 steps: IMP of two levels from theta_0 and theta_2, and its controls."""
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
class Finished:
    home: Home
    sweep: Path
    plan: Plan
    ended: Ended
    records: dict[str, Record]
    """As the run left them."""
