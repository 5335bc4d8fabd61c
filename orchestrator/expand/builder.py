"""The parts that all ticket sources share: a point of a study's grid, and the builder of trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from orchestrator.plan.graph import Trial
from orchestrator.plan.keys import key_of
from orchestrator.sweep.config import Schedule, Study
from orchestrator.sweep.resolve import ModelInput, TaskInput
from trainables.check import check_start
from trainables.parts import part_sources
from trainables.pruning import PRUNERS, check_prune
from trainables.spec import (
    PRUNE_SEMANTICS,
    Options,
    PruneSpec,
    Recipe,
    RewindSpec,
    Role,
    Search,
    Seeds,
    Start,
    TrainSpec,
    TrialSpec,
)
from trainables.tickets import TICKET_KINDS

LevelRuns: TypeAlias = Iterator[tuple[int, tuple[str, str]]]
"""Yields (level, (key of the training run, key of the ticket applied to it))."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GridPoint:
    """One combination of a study's axes."""

    model: ModelInput
    task: TaskInput
    recipe_label: str
    recipe: Recipe
    schedule: Schedule
    rewind: int
    seed: int
    study_name: str
    study: Study
    pretraining: GridPoint | None = None
    """The training run whose final weights are theta_0; without one, theta_0 is drawn at random or
    read from a file."""
    chain_point: GridPoint | None = None
    """Where the tickets come from, if not from this point: another recipe's or seed's chain."""

    def seed_of(self, source: Literal["init", "head", "data"]) -> int:
        """Return the seed of one source of randomness: 0 if the study does not vary it."""
        return self.seed if source in self.study.vary else 0

    def chain_id(self) -> tuple[object, ...]:
        """Return a value that is equal for two points of one study with the same chain."""
        labels = (self.study_name, self.model.label, self.task.label, self.recipe_label)
        return (*labels, self.schedule, self.rewind, self.seed)

    def scored_levels(self) -> Iterator[int]:
        """Return the levels that get cells; level 1 has the first ticket."""
        return iter(self.study.levels_of(self.task.label, self.schedule))


def pruning_rule(point: GridPoint) -> dict[str, Any]:
    """Return the study's rule for choosing weights as fields of a `PruneSpec`.

    A deterministic method has no seed.
    """
    method = point.study.pruner
    seed = {"seed": point.seed} if PRUNERS[method].seeded else {}
    source = PRUNERS.source_of(method)
    return {"method": method, "source": source, "scope": point.study.scope, **seed}


@dataclass(slots=True)
class PlanBuilder:
    """Collects trials by key, parents before children."""

    chain_role: Role
    """Role of a chain's runs: `evaluation` if they are scored, `round` if the scores have runs of
    their own."""
    trials: dict[str, Trial] = field(default_factory=dict)
    _chains: dict[tuple[object, ...], list[str]] = field(default_factory=dict)
    """IMP tickets by chain, level 1 first. Every source that builds on a chain looks them up."""
    _starts: dict[tuple[object, ...], Start] = field(default_factory=dict)
    _sources: dict[tuple[str, str, str], Options] = field(default_factory=dict)
    """Hashes of the parts from outside by the labels of model, task and recipe."""

    def add(
        self,
        spec: TrialSpec,
        point: GridPoint,
        *,
        parents: tuple[str, ...] = (),
        produced_by: str = "",
        level: int = 0,
    ) -> str:
        """Add a trial unless the plan already has it, and return its key."""
        key = key_of(spec)
        if key not in self.trials:
            kind = {TrainSpec: "train", PruneSpec: "prune", RewindSpec: "rewind"}[type(spec)]
            self.trials[key] = Trial(
                key=key,
                kind=kind,  # type: ignore[arg-type]
                spec=spec,
                parents=parents,
                produced_by=produced_by,
                model=point.model.label,
                task=point.task.label,
                level=level,
            )
        return self.trials[key].key  # the same string object for every reference to the trial

    def train(
        self,
        point: GridPoint,
        *,
        start: Start,
        ticket: str = "",
        level: int = 0,
        role: Role = "evaluation",
        search: Search | None = None,
    ) -> str:
        """Add a training run and return its key.

        Raises RecipeError if the model cannot be trained from that start.
        """
        check_start(start, point.model.spec)
        rewound = start.kind == "rewind" and point.rewind > 0
        spec = TrainSpec(
            model=point.model.spec,
            task=point.task.spec,
            recipe=point.recipe,
            seeds=Seeds(head=point.seed_of("head"), data=point.seed_of("data")),
            start=start,
            ticket=ticket,
            head=self._head(point, start),
            first_step=point.rewind
            if rewound and point.study.rewind_schedule == "remaining"
            else 0,
            role=role,
            search=search,
            sources=self._part_sources(point),
        )
        parents = tuple(key for key in (ticket, start.trial) if key)
        return self.add(spec, point, parents=parents, level=level)

    def _part_sources(self, point: GridPoint) -> Options:
        labels = (point.model.label, point.task.label, point.recipe_label)
        if labels not in self._sources:
            sources = part_sources(point.model.spec, point.task.spec, point.recipe)
            self._sources[labels] = sources
        return self._sources[labels]

    def _head(self, point: GridPoint, start: Start) -> Literal["rewind", "redraw"]:
        """Return how the run gets its task head; a head saved on another task cannot be used."""
        if start.kind != "rewind":
            return "rewind"
        rewind = self.trials[start.trial].spec
        assert isinstance(rewind, RewindSpec)
        run = self.trials[rewind.run].spec
        assert isinstance(run, TrainSpec)
        return point.study.reset_head if run.task == point.task.spec else "redraw"

    def prune(
        self,
        point: GridPoint,
        level: int,
        *,
        parents: tuple[str, ...] = (),
        produced_by: str = "",
        **rule: Any,
    ) -> str:
        """Add a prune trial to the sparsity of `level` and return its key.

        `rule` has the fields of `PruneSpec` that say how units are chosen. All tickets of a study,
        its controls included, are of the kind that its pruning method makes.

        Raises:
            ConfigError: the method cannot make this ticket.
        """
        kind = PRUNERS[point.study.pruner].default_kind
        spec = PruneSpec(
            model=point.model.spec,
            ticket_kind=kind,
            kind_source=TICKET_KINDS.source_of(kind) if kind in TICKET_KINDS else "",
            sparsity=point.schedule.sparsity(level),
            pool=point.model.pool(point.study),
            semantics=PRUNE_SEMANTICS,
            **rule,
        )
        check_prune(spec)
        return self.add(spec, point, parents=parents, produced_by=produced_by, level=level)

    def dense(self, point: GridPoint) -> str:
        """Add the dense run of `point` and return its key."""
        return self.train(point, start=self.theta_0(point))

    def theta_0(self, point: GridPoint) -> Start:
        """Return theta_0: drawn, read from a file, or the final weights of the run that pre-trains
        the model, which is added."""
        pretraining = point.pretraining
        if pretraining is None:
            return point.model.start(point.seed_of("init"))
        spec = TrainSpec(
            model=pretraining.model.spec,
            task=pretraining.task.spec,
            recipe=pretraining.recipe,
            seeds=Seeds(head=pretraining.seed, data=pretraining.seed),
            start=pretraining.model.start(pretraining.seed),
            sources=part_sources(pretraining.model.spec, pretraining.task.spec, pretraining.recipe),
        )
        run = self.add(spec, pretraining)
        rewind = self.add(
            RewindSpec(run=run, step=pretraining.recipe.steps),
            pretraining,
            parents=(run,),
            produced_by=run,
        )
        return Start(kind="rewind", trial=rewind)

    def start(self, point: GridPoint) -> Start:
        """Return theta_0, or theta_i saved by the dense run at the point's rewind step."""
        if point.rewind == 0:
            return self.theta_0(point)
        if point.chain_id() in self._starts:
            return self._starts[point.chain_id()]
        dense = self.dense(point)
        rewind = self.add(
            RewindSpec(run=dense, step=point.rewind), point, parents=(dense,), produced_by=dense
        )
        return self._starts.setdefault(point.chain_id(), Start(kind="rewind", trial=rewind))

    def imp_ticket(self, point: GridPoint, level: int) -> str:
        """Return the key of the study's ticket of `level`: that of iterative magnitude pruning
        (VLT, Algorithm 1), or that of the search if the pruning method has one.

        The run that scores ticket k also yields ticket k+1: it trains the full schedule from the
        same weights, so no second run is needed.
        """
        if PRUNERS[point.study.pruner].needs == "search":
            return self.searched_ticket(point, level)
        chain = self._chains.setdefault(point.chain_id(), [])
        while len(chain) < level:
            depth = len(chain)
            start, ticket = self.theta_0(point), ""
            if depth:
                start, ticket = self.start(point), chain[-1]
            run = self.train(point, start=start, ticket=ticket, level=depth, role=self.chain_role)
            chain.append(
                self.prune(
                    point,
                    depth + 1,
                    parents=(run,),
                    produced_by=run,
                    run=run,
                    **pruning_rule(point),
                )
            )
        return chain[level - 1]

    def searched_ticket(self, point: GridPoint, level: int) -> str:
        """Return the key of the ticket of `level` that the pruning method's search finds. One run
        from theta_0 searches for all levels."""
        method = point.study.pruner
        search = Search(method=method, source=PRUNERS.source_of(method))
        run = self.train(point, start=self.theta_0(point), role="round", search=search)
        return self.prune(
            point, level, parents=(run,), produced_by=run, run=run, **pruning_rule(point)
        )

    def ticket_point(self, point: GridPoint) -> GridPoint:
        """Return the point whose chain the tickets of `point` come from."""
        return point.chain_point or point
