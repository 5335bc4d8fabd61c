"""The contract of ticket sources, and the small plan that it is checked with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.expand.studies import expand_sweep
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.sources import SOURCES
from orchestrator.sources.names import find_source
from orchestrator.sweep.config import Sweep
from orchestrator.sweep.resolve import Resolver
from trainables.spec import PruneSpec, TrainSpec

LEVELS = 3
MODELS = {
    label: {"architecture": "uniter", "size": "tiny", "weights": f"/{label}.pt"}
    for label in ("first", "second")
}
TASKS = {label: {"task": "easy_vqa", "data": f"/{label}"} for label in ("here", "there")}


def small_plan(
    tickets: list[str], controls: list[str], changes: Mapping[str, Any] | None = None
) -> Plan:
    """Plan a study of two tasks, two seeds and three levels, without reading any file."""
    study = {
        "model": "first",
        "task": ["here", "there"],
        "seed": [0, 1],
        "schedule": {"rate": 0.2, "levels": LEVELS},
        "tickets": tickets,
        "controls": controls,
    }
    content = {
        "name": "contract",
        "models": MODELS,
        "tasks": TASKS,
        "studies": {"main": study | dict(changes or {})},
    }
    return expand_sweep(Resolver(Sweep.model_validate(content), _fingerprint))


def check_source_contract(
    name: str, argument: str = "", changes: Mapping[str, Any] | None = None
) -> None:
    """Check a source of `SOURCES` that can be planned, with the parameter `argument` if it takes
    one: `first` or `second` for a model, `here` or `there` for a task.

    `changes` are keys of the study, such as the `pruner` that the source needs. The same study
    gives the same plan. Every level of the schedule has a ticket of its sparsity, which the run is
    trained under. Trials come after those that they depend on.
    """
    entry = SOURCES[name]
    text = f"{name}:{argument}" if argument else name
    lists = ([], [text]) if entry.role == "control" else ([text], [])
    plan, again = small_plan(*lists, changes), small_plan(*lists, changes)
    assert [*plan.trials] == [*again.trials], "two plans of one study differ"
    assert plan.cells == again.cells, "two plans of one study differ"
    cells = [cell for cell in plan.cells if cell.curve.source != DENSE]
    assert cells, "the source plans nothing"
    label = find_source(cells[0].curve.source).entry.label
    assert label, "the entry has no label"
    for cell in cells:
        run, ticket = plan.trials[cell.trial].spec, plan.trials[cell.ticket].spec
        assert isinstance(run, TrainSpec), "a cell's trial is no training run"
        assert isinstance(ticket, PruneSpec), "a cell's ticket is no ticket"
        assert run.ticket == cell.ticket, "a run is not trained under the ticket of its cell"
        assert abs(ticket.sparsity - 0.2 * cell.level) < 1e-9, (
            f"the ticket of level {cell.level} has the sparsity {ticket.sparsity}"
        )
    for curve in {cell.curve for cell in cells}:
        levels = sorted(cell.level for cell in cells if cell.curve == curve)
        assert levels == [*range(1, LEVELS + 1)], f"{curve.source} has the levels {levels}"
    seen: set[str] = set()
    for trial in plan:
        missing = {*trial.parents, *filter(None, [trial.produced_by])} - seen
        assert not missing, f"{trial.kind} {trial.key[:12]} comes before {missing}"
        seen.add(trial.key)


def _fingerprint(path: Path, patterns: tuple[str, ...] = ()) -> str:
    return path.name.encode().hex().ljust(64, "0")[:64]
