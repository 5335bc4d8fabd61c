"""Expand the studies of a sweep into its plan.

A study's axes span a grid of points (model x task x recipe x schedule x rewind x seed). At each
point, every source of tickets (see `sources`) contributes cells, level by level, and the builder
gives each trial that they need its key. Two points that need the same trial get the same key, so
sharing needs no further code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigError, outside_code, suggest
from orchestrator.expand.builder import GridPoint, PlanBuilder
from orchestrator.expand.sources import RelatedPoints, check_pruner, source_levels
from orchestrator.plan.graph import DENSE, Cell, Curve, Plan
from orchestrator.sources import SOURCES
from orchestrator.sources.names import NamedSource, parse_sources
from orchestrator.sweep.config import AXES, AxisValues, Study
from orchestrator.sweep.resolve import Resolver, refused
from trainables.check import check_search
from trainables.pruning import PRUNERS


def expand_sweep(resolver: Resolver) -> Plan:
    """Return the plan of the resolver's sweep.

    Raises:
        ConfigError: a study cannot be run as it is written.
        MissingFile: data or weights do not exist.
    """
    sweep = resolver.sweep
    builder = PlanBuilder("round" if sweep.rounds == "separate" else "evaluation")
    cells: dict[Cell, None] = {}
    for name, study in sweep.studies.items():
        for cell in _StudyExpansion(builder, resolver, name, study).cells():
            cells.setdefault(cell)
    if not cells:
        raise ConfigError("studies: holds no trial; name a study with a model and a task")
    return Plan(sweep.name, builder.trials, tuple(cells))


@dataclass(frozen=True, slots=True)
class _StudyExpansion:
    builder: PlanBuilder
    resolver: Resolver
    name: str
    written: Study

    def cells(self) -> Iterator[Cell]:
        where = f"studies.{self.name}"
        pruner = self.resolver.pruner(self.written.pruner, f"{where}.pruner")
        study = self.written.model_copy(update={"pruner": pruner})
        sources = parse_sources(study.tickets, study.controls, where)
        for source in sources:
            check_pruner(source, study.pruner)
        for values in study.points():
            point = self._point(study, values)
            related = self._related_points(study, values)
            if study.dense:
                yield self._dense_cell(point)
            for source in sources:
                with refused(where := f"{source.where} = {str(source)!r}"):
                    outside = SOURCES.source_of(source.name)
                    with outside_code(where) if outside else nullcontext():
                        yield from self._source_cells(source, point, related)

    def _source_cells(
        self, source: NamedSource, point: GridPoint, related: RelatedPoints
    ) -> Iterator[Cell]:
        for label, levels in source_levels(source, self.builder, point, related):
            curve = self._curve(point, label)
            for level, (trial, ticket) in levels:
                for key in filter(None, (trial, ticket)):
                    if key not in self.builder.trials:
                        raise ConfigError(
                            f"{source.where} = {str(source)!r} yields {key!r}, which is no trial;"
                            " yield the keys that the builder returns"
                        )
                sparsity = point.schedule.sparsity(level)
                yield Cell(curve=curve, level=level, sparsity=sparsity, trial=trial, ticket=ticket)

    def _dense_cell(self, point: GridPoint) -> Cell:
        """Return the cell of level 0. Its run starts from theta_0 and prunes nothing, so one cell
        serves all rewind points and schedules."""
        trial = self.builder.dense(point)
        curve = replace(self._curve(point, DENSE), schedule="", rewind=0)
        return Cell(curve=curve, level=0, sparsity=0.0, trial=trial)

    def _curve(self, point: GridPoint, source: str) -> Curve:
        return Curve(
            study=self.name,
            model=point.model.label,
            task=point.task.label,
            recipe=point.recipe_label,
            schedule=point.schedule.label(),
            rewind=point.rewind,
            source=source,
            seed=point.seed,
        )

    def _point(self, study: Study, values: AxisValues, where: str = "") -> GridPoint:
        """Return the point with these values. `where` is the key that names its model or task, if
        it is not that of the axis."""
        study_key = f"studies.{self.name}"
        model = self.resolver.model(values["model"], where or f"{study_key}.model")
        task = self.resolver.task(values["task"], model, where or f"{study_key}.task")
        if (pool := model.pool(study)) not in model.pools:
            raise ConfigError(
                f"{study_key}.pool = {pool!r} is not known; {suggest(pool, model.pools)}"
            )
        point = GridPoint(
            model=model,
            task=task,
            recipe_label=values["recipe"],
            recipe=self.resolver.recipe(values["recipe"], model, task, f"{study_key}.recipe"),
            schedule=values["schedule"],
            rewind=values["rewind"],
            seed=values["seed"],
            study_name=self.name,
            study=study,
        )
        point = replace(point, pretraining=self._pretraining(point))
        chain_point = self._chain_point(point)
        for checked in (point, chain_point or point):
            self._check_rewind(checked)
            self._check_search(checked)
        return replace(point, chain_point=chain_point)

    def _pretraining(self, point: GridPoint) -> GridPoint | None:
        """Return the point of the run whose final weights are theta_0; None if there is none."""
        config, model = point.model.pretrained_by, point.model
        if config is None:
            return None
        key = f"models.{model.label}.pretrained_by"
        task = self.resolver.task(config.task, model, f"{key}.task")
        recipe = self.resolver.recipe(config.recipe, model, task, f"{key}.recipe")
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
            key = f"studies.{self.name}.ticket_recipe"
            recipe = self.resolver.recipe(study.ticket_recipe, point.model, point.task, key)
            chain_point = replace(chain_point, recipe_label=study.ticket_recipe, recipe=recipe)
        return None if chain_point is point else chain_point

    def _check_rewind(self, point: GridPoint) -> None:
        # With `rewind_schedule: remaining`, a run from the last step would train zero steps.
        max_rewind = point.recipe.steps - (point.study.rewind_schedule == "remaining")
        if point.rewind > max_rewind:
            raise ConfigError(
                f"studies.{self.name}.rewind = {point.rewind} is past the recipe's end;"
                f" use {max_rewind} or less"
            )

    def _check_search(self, point: GridPoint) -> None:
        pruner = point.study.pruner
        if PRUNERS[pruner].needs == "search":
            with refused(f"studies.{self.name}.pruner = {pruner!r}"):
                check_search(pruner, point.recipe, self.resolver.sweep.placement.workers)

    def _related_points(self, study: Study, values: AxisValues) -> RelatedPoints:
        """Return the points that differ from `values` in the task (and the axes zipped with it), or
        in the model."""

        def tasks() -> list[str]:
            return [task for task in dict.fromkeys(study.axis("task")) if task != values["task"]]

        def on_task(task: str, source: NamedSource) -> GridPoint:
            zipped = next((group for group in study.zip if "task" in group), ["task"])
            for other in study.points():
                same = all(other[axis] == values[axis] for axis in AXES if axis not in zipped)
                if same and other["task"] == task:
                    return self._point(study, other)
            return self._point(study, {**values, "task": task}, source.where)

        def on_model(source: NamedSource) -> GridPoint:
            other = self._point(study, {**values, "model": source.argument}, source.where)
            model = self.resolver.models[values["model"]]
            if other.model.spec != model.spec:
                raise ConfigError(
                    f"{source.where}: {source} has another architecture, size or overrides than"
                    f" {model.label}; use a model that differs in its weights only"
                )
            return other

        return RelatedPoints(tasks, on_task, on_model)
