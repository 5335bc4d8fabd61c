"""Expand the studies of a sweep into its plan.

A study's axes span a grid of points (model x task x recipe x schedule x rewind x seed). At each
point, every source of tickets (see `sources`) contributes cells, level by level, and the builder
gives each trial that they need its key. Two points that need the same trial get the same key, so
sharing needs no further code.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigError
from orchestrator.expand.builder import GridPoint, PlanBuilder
from orchestrator.expand.sources import RelatedPoints, check_pruner, source_levels
from orchestrator.plan.graph import DENSE, Cell, Curve, Plan
from orchestrator.sources.names import NamedSource, parse_sources
from orchestrator.sweep.config import AXES, Schedule, Study, Sweep
from orchestrator.sweep.resolve import ModelInput, ResolvedInputs, TaskInput
from trainables.models import MODELS
from trainables.spec import Recipe
from trainables.tasks import TASKS


def expand_sweep(sweep: Sweep, inputs: ResolvedInputs) -> Plan:
    """Return the plan of a sweep.

    Raises:
        ConfigError: a study cannot be run as it is written.
    """
    builder = PlanBuilder("round" if sweep.rounds == "separate" else "evaluation")
    cells: dict[Cell, None] = {}
    for name, written in sweep.studies.items():
        study = written.model_copy(update={"pruner": inputs.pruners[name]})
        for cell in _study_cells(builder, name, study, _PointResolver(sweep, inputs, name)):
            cells.setdefault(cell)
    if not cells:
        raise ConfigError("studies: holds no trial; name a study with a model and a task")
    return Plan(sweep.name, builder.trials, tuple(cells))


def _study_cells(
    builder: PlanBuilder, name: str, study: Study, resolver: _PointResolver
) -> Iterator[Cell]:
    _check_levels(name, study)
    sources = parse_sources(study.tickets, study.controls, f"studies.{name}")
    for source in sources:
        check_pruner(source, study.pruner)
    for values in _axis_combinations(name, study):
        point = resolver.point(study, values)
        related = _related_points(study, name, values, resolver)
        if study.dense:
            yield _dense_cell(builder, name, point)
        for source in sources:
            for label, levels in source_levels(source, builder, point, related):
                curve = _curve(name, point, label)
                for level, (trial, ticket) in levels:
                    sparsity = point.schedule.sparsity(level)
                    yield Cell(
                        curve=curve, level=level, sparsity=sparsity, trial=trial, ticket=ticket
                    )


def _check_levels(name: str, study: Study) -> None:
    if isinstance(study.score_levels, dict):
        differing = sorted(set(study.score_levels) ^ {str(task) for task in _as_list(study.task)})
        if differing:
            raise ConfigError(
                f"studies.{name}.score_levels: {differing[0]!r} is in only one of `score_levels`"
                " and `task`; give levels for each task of the study, or one list for all"
            )


def _dense_cell(builder: PlanBuilder, study: str, point: GridPoint) -> Cell:
    """Return the cell of level 0. Its run starts from theta_0 and prunes nothing, so one cell
    serves all rewind points and schedules."""
    trial = builder.dense(point)
    curve = replace(_curve(study, point, DENSE), schedule="", rewind=0)
    return Cell(curve=curve, level=0, sparsity=0.0, trial=trial)


def _curve(study: str, point: GridPoint, source: str) -> Curve:
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


AxisValues = Mapping[str, object]
"""One value per axis."""


def _axis_combinations(name: str, study: Study) -> Iterator[AxisValues]:
    """Yield the product of the axes, with zipped axes advanced together; the last axis varies
    fastest."""
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
            raise ConfigError(f"studies.{name}.zip: {sizes}; give them lists of equal length")
        columns.append(
            [
                dict(zip(group, row, strict=True))
                for row in zip(*(values[axis] for axis in group), strict=True)
            ]
        )
    for combination in itertools.product(*columns):
        yield {axis: value for column in combination for axis, value in column.items()}


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _related_points(
    study: Study, name: str, values: AxisValues, resolver: _PointResolver
) -> RelatedPoints:
    """Return the points that differ from `values` in the task (and the axes zipped with it), or in
    the model."""

    def tasks() -> list[str]:
        return [str(task) for task in dict.fromkeys(_as_list(study.task)) if task != values["task"]]

    def on_task(task: str) -> GridPoint:
        zipped = next((group for group in study.zip if "task" in group), ["task"])
        for other in _axis_combinations(name, study):
            same = all(other[axis] == values[axis] for axis in AXES if axis not in zipped)
            if same and other["task"] == task:
                return resolver.point(study, other)
        return resolver.point(study, {**values, "task": task})

    def on_model(source: NamedSource) -> GridPoint:
        other = resolver.point(study, {**values, "model": source.argument})
        model = resolver.inputs.models[str(values["model"])]
        if other.model.spec != model.spec:
            raise ConfigError(
                f"{source.where}: {source} has another architecture, size or"
                f" overrides than {model.label}; use a model that differs in its weights only"
            )
        return other

    return RelatedPoints(tasks, on_task, on_model)


@dataclass(frozen=True, slots=True)
class _PointResolver:
    """Turns the names in a study into the models, tasks and recipes that they name."""

    sweep: Sweep
    inputs: ResolvedInputs
    study_name: str

    def point(self, study: Study, values: AxisValues) -> GridPoint:
        model = self.inputs.models[str(values["model"])]
        schedule, rewind, seed = values["schedule"], values["rewind"], values["seed"]
        assert isinstance(schedule, Schedule)
        assert isinstance(rewind, int)
        assert isinstance(seed, int)
        task = self._task(str(values["task"]), model)
        label = str(values["recipe"])
        point = GridPoint(
            model=model,
            task=task,
            recipe_label=label,
            recipe=self._recipe(label, model, task),
            schedule=schedule,
            rewind=rewind,
            seed=seed,
            study=study,
        )
        point = replace(point, pretraining=self._pretraining(point))
        chain_point = self._chain_point(point)
        for checked in (point, chain_point or point):
            self._check(checked)
        return replace(point, chain_point=chain_point)

    def _task(self, label: str, model: ModelInput) -> TaskInput:
        return self.inputs.tasks[label][MODELS[model.spec.architecture].format]

    def _pretraining(self, point: GridPoint) -> GridPoint | None:
        config = point.model.pretrained_by
        if config is None:
            return None
        task = self._task(config.task, point.model)
        recipe = self._recipe(config.recipe, point.model, task)
        return replace(
            point, task=task, recipe_label=config.recipe, recipe=recipe, seed=config.seed
        )

    def _chain_point(self, point: GridPoint) -> GridPoint | None:
        """Return the point whose chain the tickets come from; None if it is `point` itself."""
        study = point.study
        chain_point = point
        if study.tickets_from_seed is not None:
            chain_point = replace(chain_point, seed=study.tickets_from_seed)
        if study.ticket_recipe is not None:
            recipe = self._recipe(study.ticket_recipe, point.model, point.task)
            chain_point = replace(chain_point, recipe_label=study.ticket_recipe, recipe=recipe)
        return None if chain_point is point else chain_point

    def _recipe(self, label: str, model: ModelInput, task: TaskInput) -> Recipe:
        default = TASKS[task.spec.name].recipes[model.spec.architecture]
        if label == "default":
            return default
        if label not in self.sweep.recipes:
            allowed = ", ".join(["default", *self.sweep.recipes])
            raise ConfigError(
                f"studies.{self.study_name}.recipe = {label!r} is not known; use {allowed}"
            )
        changes = self.sweep.recipe_changes(label)
        recipe = replace(default, **changes)
        if recipe.precision == "bf16" and recipe.zero == 0:
            raise ConfigError(f"recipes.{label}.zero = 0 is not allowed with bf16; use 1 or more")
        if recipe.batch_size % recipe.accumulate:
            raise ConfigError(
                f"recipes.{label}.accumulate = {recipe.accumulate} does not divide batch_size ="
                f" {recipe.batch_size}; use a divisor"
            )
        return recipe

    def _check(self, point: GridPoint) -> None:
        where = f"studies.{self.study_name}"
        schedule = point.schedule
        if schedule.sparsity(schedule.levels) >= 1:
            levels = range(schedule.levels + 1)
            max_levels = bisect.bisect_left(levels, 1.0, key=schedule.sparsity) - 1
            raise ConfigError(
                f"{where}.schedule.levels = {schedule.levels} would prune everything;"
                f" use {max_levels} or less at rate {schedule.rate:g}"
            )
        # With `rewind_schedule: remaining`, a run from the last step would train zero steps.
        max_rewind = point.recipe.steps - (point.study.rewind_schedule == "remaining")
        if point.rewind > max_rewind:
            raise ConfigError(
                f"{where}.rewind = {point.rewind} is past the recipe's end;"
                f" use {max_rewind} or less"
            )
        for level in point.scored_levels():
            if level > schedule.levels:
                raise ConfigError(
                    f"{where}.score_levels = {level} is past the schedule's last level;"
                    f" use {schedule.levels} or less"
                )
