"""Sources of tickets: the names that a study's `tickets` and `controls` may contain.

A source takes the builder and a grid point and yields (level, (training run, ticket)). To add one,
write a function of that shape in the module of its group and add a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.errors import ConfigError, suggest
from orchestrator.expand import controls, magnitude
from orchestrator.expand.builder import GridPoint, PlanBuilder
from orchestrator.expand.magnitude import LevelRuns
from orchestrator.expand.transfer import transfer_tickets
from orchestrator.sweep.config import Study

SOURCES: dict[str, Callable[[PlanBuilder, GridPoint], LevelRuns]] = {
    "imp": magnitude.imp,
    "omp": magnitude.omp,
    "random": controls.random,
    "random_layerwise": controls.random_layerwise,
    "reinit": controls.reinit,
    "shuffle_within": controls.shuffle_within,
    "shuffle_across": controls.shuffle_across,
}


@dataclass(frozen=True, slots=True)
class RelatedPoints:
    """The same point on the study's other tasks, and on the weights of another model."""

    tasks: Callable[[], list[str]]
    """Return the labels of the study's other tasks."""
    on_task: Callable[[str, str], GridPoint]
    """Return the point on the task with this label, which the study's key (the second argument)
    names."""
    on_model: Callable[[str, str], GridPoint]
    """Return the point on the weights of the model with this label. Raises ConfigError if that
    model differs in more than its weights."""


TicketSource = Callable[[PlanBuilder, GridPoint, RelatedPoints], Iterator[tuple[str, LevelRuns]]]
"""Yields (label, levels): one curve, or one for each task that tickets are transferred from."""


def parse_sources(study: Study, where: str) -> list[TicketSource]:
    """Return the sources that a study names, each once.

    Raises:
        ConfigError: a name is unknown; `where` is the study's key, for the message.
    """
    return [
        _parse(name, f"{where}.{'tickets' if name in study.tickets else 'controls'}")
        for name in dict.fromkeys([*study.tickets, *study.controls])
    ]


def _parse(name: str, where: str) -> TicketSource:
    kind, _, label = name.partition(":")
    if kind == "transfer":
        return _transfer(label, where)
    if kind == "init" and label:
        return _other_init(label, where)
    if name in SOURCES:
        return _registered(name)
    allowed = [*SOURCES, "init:MODEL", "transfer", "transfer:TASK"]
    raise ConfigError(f"{where} = {name!r} is not known; {suggest(name, allowed)}")


def _registered(name: str) -> TicketSource:
    def source(
        builder: PlanBuilder, point: GridPoint, related: RelatedPoints
    ) -> Iterator[tuple[str, LevelRuns]]:
        yield name, SOURCES[name](builder, point)

    return source


def _transfer(task: str, where: str) -> TicketSource:
    def source(
        builder: PlanBuilder, point: GridPoint, related: RelatedPoints
    ) -> Iterator[tuple[str, LevelRuns]]:
        for origin in [task] if task else related.tasks():
            if origin != point.task.label:
                source_point = related.on_task(origin, where)
                yield f"transfer:{origin}", transfer_tickets(builder, point, source_point)

    return source


def _other_init(label: str, where: str) -> TicketSource:
    def source(
        builder: PlanBuilder, point: GridPoint, related: RelatedPoints
    ) -> Iterator[tuple[str, LevelRuns]]:
        other = related.on_model(label, where)
        yield f"init:{label}", controls.other_init(builder, point, other)

    return source
