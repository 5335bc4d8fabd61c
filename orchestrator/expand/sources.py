"""From the sources that a study names to the levels of their curves.

The sources and what is known of each are in `orchestrator.sources`; the modules beside this one
have their functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.expand.builder import GridPoint, LevelRuns, PlanBuilder
from orchestrator.sources import BUILTIN
from orchestrator.sources.names import NamedSource
from trainables.errors import describe_error
from trainables.pruning import PRUNERS, Needs

_NEEDS: dict[Needs, str] = {
    "nothing": "nothing but names and shapes",
    "weights": "weights",
    "trained": "the weights at the end of a training run",
    "search": "what a training run with its own search has learned",
}


@dataclass(frozen=True, slots=True)
class RelatedPoints:
    """The same point on the study's other tasks, and on the weights of another model."""

    tasks: Callable[[], list[str]]
    """Return the labels of the study's other tasks."""
    on_task: Callable[[str, NamedSource], GridPoint]
    """Return the point on the task with this label, for a source."""
    on_model: Callable[[NamedSource], GridPoint]
    """Return the point on the weights of the model that a source names. Raises ConfigError if that
    model differs in more than its weights."""


def check_pruner(source: NamedSource, pruner: str) -> None:
    """Check that a source can serve the study's pruning method.

    Raises:
        ConfigError: the method needs what the source does not have.
    """
    serves, needs = source.entry.pruner_needs, PRUNERS[pruner].needs
    if serves and needs not in serves:
        others = [name for name, entry in BUILTIN.items() if needs in entry.pruner_needs]
        raise ConfigError(
            f"{source.where} = {str(source)!r} cannot use the pruner {pruner!r}, which needs"
            f" {_NEEDS[needs]}; use {', '.join(others)}, or another pruner"
        )


def source_levels(
    source: NamedSource, builder: PlanBuilder, point: GridPoint, related: RelatedPoints
) -> Iterator[tuple[str, LevelRuns]]:
    """Yield (source, levels): one curve, or one for each other task if the source's parameter is
    left out.

    Raises:
        ConfigError: the source's function cannot be imported, or the task or model that it
            names cannot be used.
    """
    generate = _function(source)
    if source.entry.parameter == "model":
        yield str(source), generate(builder, point, related.on_model(source))
    elif source.entry.parameter == "task":
        for task in [source.argument] if source.argument else related.tasks():
            if task != point.task.label:
                other = related.on_task(task, source)
                yield f"{source.name}:{task}", generate(builder, point, other)
    else:
        yield source.name, generate(builder, point)


def _function(source: NamedSource) -> Callable[..., LevelRuns]:
    try:
        module = importlib.import_module(source.entry.module)
        function: Callable[..., LevelRuns] = getattr(module, source.entry.function)
    except Exception as error:  # whatever a module from outside raises while it is imported
        raise ConfigError(
            f"{source.where} = {str(source)!r} cannot be planned ({describe_error(error)});"
            " correct the `module` and `function` of its entry"
        ) from error
    return function
