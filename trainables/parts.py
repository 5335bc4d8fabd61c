"""The parts of a training run that have no spec of their own: its optimizer, its augmentation and
its data format.

If such a part comes from outside the package, the hash of its source is one of `TrainSpec.sources`,
so that changed code never passes for the old. This module imports nothing heavy, because planning
uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainables.data.augmentation import AUGMENTATIONS
from trainables.data.formats import FORMATS, choose_format
from trainables.optim import OPTIMIZERS
from trainables.registry import Registry
from trainables.spec import ModelSpec, Options, Recipe, TaskSpec, TrainSpec
from trainables.tasks import TASKS


def part_sources(model: ModelSpec, task: TaskSpec, recipe: Recipe) -> Options:
    """Return the hash of the source of each part from outside, by registry and name.

    Raises DataError if the model reads the task's data in no format.
    """
    sources = {
        f"{registry.group}/{name}": source
        for registry, name in _parts(model, task, recipe)
        if (source := registry.source_of(name))
    }
    return tuple(sorted(sources.items()))


def check_part_sources(spec: TrainSpec) -> None:
    """Raise PluginError unless the parts of this machine are those that the run was planned
    with."""
    planned = dict(spec.sources)
    for registry, name in _parts(spec.model, spec.task, spec.recipe):
        registry.check_source(name, str(planned.get(f"{registry.group}/{name}", "")))


def _parts(model: ModelSpec, task: TaskSpec, recipe: Recipe) -> Iterator[tuple[Registry[Any], str]]:
    yield OPTIMIZERS, recipe.optimizer
    yield AUGMENTATIONS, recipe.augmentation
    if TASKS[task.name].published:
        yield FORMATS, choose_format(task.name, model.architecture, task.format)
