"""Small sweeps for tests, from a sweep file's content to its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from orchestrator.expand.studies import expand_sweep
from orchestrator.plan.graph import Plan
from orchestrator.sources import SOURCES
from orchestrator.sweep.config import Sweep
from orchestrator.sweep.resolve import Resolver

STUDY: dict[str, Any] = {
    "model": "uniter-tiny",
    "task": "easy_vqa",
    "recipe": "short",
    "schedule": {"rate": 0.2, "levels": 4},
}


def fake_fingerprint(path: Path, patterns: tuple[str, ...] = ()) -> str:
    """Return 64 hex digits that depend on the name of `path` only, so no data is needed."""
    return path.name.encode().hex().ljust(64, "0")[:64]


def sweep_document(**study: Any) -> dict[str, Any]:
    """Return a sweep with one study: `STUDY` with changes."""
    return {
        "name": "test",
        "recipes": {"short": {"steps": 10, "batch_size": 8}},
        "studies": {"main": STUDY | study},
    }


def write_sweep(folder: Path, content: dict[str, Any] | str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def plan_of(content: dict[str, Any]) -> Plan:
    return expand_sweep(Resolver(Sweep.model_validate(content), fake_fingerprint))


CONTROLS = sorted(
    name
    for name, entry in SOURCES.items()
    if not entry.parameter and entry.pruner_needs != ("search",)
)
"""Sources that need no other task or model of the sweep, and no search."""

studies = st.fixed_dictionaries(
    {
        "seed": st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
        "rewind": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
        "tickets": st.lists(st.sampled_from(["imp", "omp"]), unique=True),
        "controls": st.lists(st.sampled_from(CONTROLS), unique=True),
        "vary": st.lists(st.sampled_from(["init", "head", "data"]), unique=True),
        "reset_head": st.sampled_from(["rewind", "redraw"]),
        "rewind_schedule": st.sampled_from(["full", "remaining"]),
        "scope": st.sampled_from(["global", "layer"]),
        "tickets_from_seed": st.none() | st.integers(0, 1),
        "schedule": st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["linear", "geometric"]),
                "rate": st.just(0.2),
                "levels": st.integers(0, 4),
            }
        ),
    }
)
