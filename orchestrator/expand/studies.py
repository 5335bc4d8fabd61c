"""From the studies of a sweep to its plan.

A study's axes make points (model x task x recipe x schedule x rewind x seed); at each point every
source of tickets (see `recipes`) contributes cells, level by level, and the builder gives each
trial they need its key. Two points that need the same trial meet in that key: sharing is nothing
that anyone has to arrange.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigError
from orchestrator.expand import sources as recipes
from orchestrator.expand.builder import Builder, Point
from orchestrator.plan.graph import DENSE, Cell, Curve, Plan
from orchestrator.sweep.config import AXES, Schedule, Study, Sweep
from orchestrator.sweep.resolve import Inputs, ModelInput, TaskInput
from trainables.models import MODELS
from trainables.spec import Recipe
from trainables.tasks import TASKS


def expand(sweep: Sweep, inputs: Inputs) -> Plan:
    """The plan of a sweep; ConfigError for a study that cannot be."""
    builder = Builder("round" if sweep.rounds == "separate" else "evaluation")
    cells: dict[Cell, None] = {}
    for name, study in sweep.studies.items():
        for cell in _study_cells(builder, name, study, _Resolver(sweep, inputs, name)):
            cells.setdefault(cell)
    if not cells:
        raise ConfigError("studies: holds no trial; name a study with a model and a task")
    return Plan(sweep.name, builder.trials, tuple(cells))


def _study_cells(builder: Builder, name: str, study: Study, resolver: _Resolver) -> Iterator[Cell]:
    _check_levels(name, study)
    sources = recipes.parse([*study.tickets, *study.controls], f"studies.{name}")
    for choice in _choices(name, study):
        point = resolver.point(study, choice)
        if study.dense:
            yield from _dense_cells(builder, name, point)
        for source in sources:
            for label, levels in source(builder, point, _neighbours(study, name, choice, resolver)):
                curve = _curve(name, point, label)
                for level, (trial, ticket) in levels:
                    sparsity = point.schedule.sparsity(level)
                    yield Cell(
                        curve=curve, level=level, sparsity=sparsity, trial=trial, ticket=ticket
                    )


def _check_levels(name: str, study: Study) -> None:
    if isinstance(study.at, dict):
        differing = sorted(set(study.at) ^ {str(task) for task in _as_list(study.task)})
        if differing:
            raise ConfigError(
                f"studies.{name}.at: {differing[0]!r} is in one of `at` and `task` only; give"
                " levels for each task of the study, or one list for all"
            )


def _dense_cells(builder: Builder, study: str, point: Point) -> Iterator[Cell]:
    """Level 0 trains from theta_0 whatever the rewind point or schedule: one cell for them all."""
    trial = builder.dense(point)
    curve = replace(_curve(study, point, DENSE), schedule="", rewind=0)
    yield Cell(curve=curve, level=0, sparsity=0.0, trial=trial)


def _curve(study: str, point: Point, source: str) -> Curve:
    return Curve(
        study=study,
        model=point.model.label,
        task=point.task.label,
        recipe=point.recipe_label,
        schedule=point.schedule.label(),
        rewind=point.rewind,
        source=source,
        seed=point.seed,
    )


Choice = Mapping[str, object]
"""One value per axis."""


def _choices(name: str, study: Study) -> Iterator[Choice]:
    """The product of the axes, zipped axes moving in step; the last axis moves fastest."""
    values = {axis: _as_list(getattr(study, axis)) for axis in AXES}
    groups: list[list[str]] = [list(group) for group in study.zip]
    grouped = [axis for group in groups for axis in group]
    if len(grouped) != len(set(grouped)):
        raise ConfigError(f"studies.{name}.zip names an axis twice; name each axis once")
    groups += [[axis] for axis in AXES if axis not in grouped]
    groups.sort(key=lambda group: AXES.index(group[0]))
    columns = []
    for group in groups:
        lengths = {len(values[axis]) for axis in group}
        if len(lengths) > 1:
            sizes = ", ".join(f"{axis} has {len(values[axis])}" for axis in group)
            raise ConfigError(f"studies.{name}.zip: {sizes}; give them lists of one length")
        columns.append(
            [
                dict(zip(group, row, strict=True))
                for row in zip(*(values[a] for a in group), strict=True)
            ]
        )
    for combination in itertools.product(*columns):
        yield {axis: value for part in combination for axis, value in part.items()}


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _neighbours(study: Study, name: str, choice: Choice, resolver: _Resolver) -> recipes.Neighbours:
    """The points that stand where `choice` does, but on another task (its zip partners too), or on
    another model."""

    def tasks() -> list[str]:
        return [str(task) for task in dict.fromkeys(_as_list(study.task)) if task != choice["task"]]

    def on_task(task: str) -> Point:
        moving = next((group for group in study.zip if "task" in group), ["task"])
        for other in _choices(name, study):
            stays = all(other[axis] == choice[axis] for axis in AXES if axis not in moving)
            if stays and other["task"] == task:
                return resolver.point(study, other)
        return resolver.point(study, {**choice, "task": task})

    def on_model(label: str) -> Point:
        other = resolver.point(study, {**choice, "model": label})
        own = resolver.inputs.models[str(choice["model"])]
        if other.model.spec != own.spec:
            raise ConfigError(
                f"studies.{name}.controls: init:{label} is another architecture, size or setting"
                f" than {own.label}; use a model that differs in its weights only"
            )
        return other

    return recipes.Neighbours(tasks, on_task, on_model)


@dataclass(frozen=True, slots=True)
class _Resolver:
    """From the names in a study to what they stand for."""

    sweep: Sweep
    inputs: Inputs
    study: str

    def point(self, study: Study, choice: Choice) -> Point:
        model = self.inputs.models[str(choice["model"])]
        schedule, rewind, seed = choice["schedule"], choice["rewind"], choice["seed"]
        assert isinstance(schedule, Schedule)
        assert isinstance(rewind, int)
        assert isinstance(seed, int)
        task = self._task(str(choice["task"]), model)
        label = str(choice["recipe"])
        point = Point(
            model=model,
            task=task,
            recipe_label=label,
            recipe=self._recipe(label, model, task),
            schedule=schedule,
            rewind=rewind,
            seed=seed,
            study=study,
        )
        point = replace(point, origin=self._origin(point))
        chain = self._chain(point)
        for each in (point, chain or point):
            self._check(each)
        return replace(point, chain=chain)

    def _task(self, label: str, model: ModelInput) -> TaskInput:
        known = self.inputs.tasks
        if label not in known:
            raise ConfigError(
                f"studies.{self.study}.tickets: transfer from {label!r}; use a task of this"
                f" sweep: {', '.join(known)}"
            )
        return known[label][MODELS[model.spec.architecture].format]

    def _origin(self, point: Point) -> Point | None:
        by = point.model.pretrained_by
        if by is None:
            return None
        task = self._task(by.task, point.model)
        recipe = self._recipe(by.recipe, point.model, task)
        return replace(point, task=task, recipe_label=by.recipe, recipe=recipe, seed=by.seed)

    def _chain(self, point: Point) -> Point | None:
        """The point that the study cuts tickets at, if it is another."""
        study = point.study
        chain = point
        if study.tickets_from_seed is not None:
            chain = replace(chain, seed=study.tickets_from_seed)
        if study.ticket_recipe is not None:
            recipe = self._recipe(study.ticket_recipe, point.model, point.task)
            chain = replace(chain, recipe_label=study.ticket_recipe, recipe=recipe)
        return None if chain is point else chain

    def _recipe(self, label: str, model: ModelInput, task: TaskInput) -> Recipe:
        official = TASKS[task.spec.name].recipes[model.spec.architecture]
        if label == "default":
            return official
        if label not in self.sweep.recipes:
            known = ", ".join(["default", *self.sweep.recipes])
            raise ConfigError(f"studies.{self.study}.recipe = {label!r} is not known; use {known}")
        changes = self.sweep.recipe_changes(label)
        recipe = replace(official, **changes)
        if recipe.precision == "bf16" and recipe.zero == 0:
            raise ConfigError(f"recipes.{label}.zero = 0 is not allowed with bf16; use 1 or more")
        if recipe.batch_size % recipe.accumulate:
            raise ConfigError(
                f"recipes.{label}.accumulate = {recipe.accumulate} does not divide batch_size ="
                f" {recipe.batch_size}; use a divisor"
            )
        return recipe

    def _check(self, point: Point) -> None:
        where = f"studies.{self.study}"
        schedule = point.schedule
        if schedule.sparsity(schedule.levels) >= 1:
            levels = range(schedule.levels + 1)
            most = bisect.bisect_left(levels, 1.0, key=schedule.sparsity) - 1
            raise ConfigError(
                f"{where}.schedule.levels = {schedule.levels} would prune everything;"
                f" use {most} or less at rate {schedule.rate:g}"
            )
        # A run from the very end for the remaining steps would have none.
        latest = point.recipe.steps - (point.study.rewind_schedule == "remaining")
        if point.rewind > latest:
            raise ConfigError(
                f"{where}.rewind = {point.rewind} lies past the recipe's end; use {latest} or less"
            )
        for level in point.levels():
            if level > schedule.levels:
                raise ConfigError(
                    f"{where}.at = {level} is past the schedule; use {schedule.levels} or less"
                )
