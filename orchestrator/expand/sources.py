"""Where tickets come from: the names that `tickets` and `controls` of a study may hold.

A source takes the builder and a point and yields (level, (training run, ticket)). A new one is a
function of that shape in a file of its family, and one line here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.expand import controls
from orchestrator.expand import magnitude as imp
from orchestrator.expand.builder import Builder, Point
from orchestrator.expand.magnitude import Levels
from orchestrator.expand.transfer import transfer

SOURCES: dict[str, Callable[[Builder, Point], Levels]] = {
    "imp": imp.imp,
    "omp": imp.omp,
    "random": controls.random,
    "random_layerwise": controls.random_layerwise,
    "reinit": controls.reinit,
    "shuffle_within": controls.shuffle_within,
    "shuffle_across": controls.shuffle_across,
}


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The same point on the study's other tasks, and on the weights of another model."""

    tasks: Callable[[], list[str]]
    on_task: Callable[[str], Point]
    on_model: Callable[[str], Point]


Source = Callable[[Builder, Point, Neighbours], Iterator[tuple[str, Levels]]]
"""Yields (label, levels): one curve, or one for each task that a transfer comes from."""


def parse(names: Iterable[str], where: str) -> list[Source]:
    """The sources behind the names of a study, each once; ConfigError for an unknown name."""
    return [_parse(name, where) for name in dict.fromkeys(names)]


def _parse(name: str, where: str) -> Source:
    kind, _, label = name.partition(":")
    if kind == "transfer":
        return _transfer(label)
    if kind == "init" and label:
        return _other_init(label)
    if name in SOURCES:
        return _own(name)
    known = [*SOURCES, "init:MODEL", "transfer", "transfer:TASK"]
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}"
    raise ConfigError(f"{where}.tickets = {name!r} is not known; {cure}")


def _own(name: str) -> Source:
    def source(
        builder: Builder, point: Point, neighbours: Neighbours
    ) -> Iterator[tuple[str, Levels]]:
        yield name, SOURCES[name](builder, point)

    return source


def _transfer(task: str) -> Source:
    def source(
        builder: Builder, point: Point, neighbours: Neighbours
    ) -> Iterator[tuple[str, Levels]]:
        for origin in [task] if task else neighbours.tasks():
            if origin != point.task.label:
                yield f"transfer:{origin}", transfer(builder, point, neighbours.on_task(origin))

    return source


def _other_init(label: str) -> Source:
    def source(
        builder: Builder, point: Point, neighbours: Neighbours
    ) -> Iterator[tuple[str, Levels]]:
        other = neighbours.on_model(label)
        yield f"init:{label}", controls.other_init(builder, point, other)

    return source
