"""The pieces that every recipe is made of: a point of a study, and the builder that keys trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.plan.graph import Trial
from orchestrator.plan.keys import key_of
from orchestrator.sweep.config import Schedule, Study
from orchestrator.sweep.resolve import ModelInput, TaskInput
from trainables.spec import (
    CUT_SEMANTICS,
    CutSpec,
    Recipe,
    RewindSpec,
    Role,
    Seeds,
    Start,
    TrainSpec,
    TrialSpec,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Point:
    """One combination of a study's axes."""

    model: ModelInput
    task: TaskInput
    recipe_label: str
    recipe: Recipe
    schedule: Schedule
    rewind: int
    seed: int
    study: Study
    origin: Point | None = None
    """The training run at whose end theta_0 lies; without one it is drawn or read from a file."""
    chain: Point | None = None
    """Where the tickets are cut, if not here: under another recipe, or another seed's."""

    def seeded(self, what: str) -> int:
        """The seed of one source of chance: the axis value, or 0 where the study holds it still."""
        return self.seed if what in self.study.vary else 0

    def identity(self) -> tuple[object, ...]:
        """Equal for two points of one study that stand for the same chain."""
        labels = (self.model.label, self.task.label, self.recipe_label)
        return (id(self.study), *labels, self.schedule, self.rewind, self.seed)

    def levels(self) -> Iterator[int]:
        """The levels that get cells, 1 for the first cut."""
        at = self.study.at
        if isinstance(at, dict):
            at = at.get(self.task.label)
        return iter(range(1, self.schedule.levels + 1) if at is None else at)


def chosen_by(point: Point) -> dict[str, Any]:
    """The study's own rule of which weights to keep; magnitude leaves nothing to chance."""
    method = point.study.cut
    chance = {} if method == "magnitude" else {"seed": point.seed}
    return {"method": method, "scope": point.study.scope, **chance}


@dataclass(slots=True)
class Builder:
    """Collects trials by key, parents before children."""

    role: Role
    """Of the runs of a chain: those that are scored, or rounds of their own."""
    trials: dict[str, Trial] = field(default_factory=dict)
    _chains: dict[tuple[object, ...], list[str]] = field(default_factory=dict)
    """IMP tickets by chain, level 1 first: asked for again by every source that builds on them."""
    _starts: dict[tuple[object, ...], Start] = field(default_factory=dict)

    def add(
        self,
        spec: TrialSpec,
        point: Point,
        *,
        parents: tuple[str, ...] = (),
        rides: str = "",
        level: int = 0,
    ) -> str:
        key = key_of(spec)
        if key not in self.trials:
            kind = {TrainSpec: "train", CutSpec: "cut", RewindSpec: "rewind"}[type(spec)]
            self.trials[key] = Trial(
                key=key,
                kind=kind,  # type: ignore[arg-type]
                spec=spec,
                parents=parents,
                rides=rides,
                model=point.model.label,
                task=point.task.label,
                level=level,
            )
        return self.trials[key].key  # one string per key, whoever names it

    def train(
        self,
        point: Point,
        *,
        start: Start,
        ticket: str = "",
        level: int = 0,
        role: Role = "evaluation",
    ) -> str:
        rewound = start.kind == "rewind" and point.rewind > 0
        spec = TrainSpec(
            model=point.model.spec,
            task=point.task.spec,
            recipe=point.recipe,
            seeds=Seeds(head=point.seeded("head"), data=point.seeded("data")),
            start=start,
            ticket=ticket,
            head=self._head(point, start),
            first_step=point.rewind
            if rewound and point.study.rewind_schedule == "remaining"
            else 0,
            role=role,
        )
        parents = tuple(key for key in (ticket, start.trial) if key)
        return self.add(spec, point, parents=parents, level=level)

    def _head(self, point: Point, start: Start) -> Literal["rewind", "redraw"]:
        """A head that was kept on another task is of no use here."""
        if start.kind != "rewind":
            return "rewind"
        kept = self.trials[start.trial].spec
        assert isinstance(kept, RewindSpec)
        run = self.trials[kept.run].spec
        assert isinstance(run, TrainSpec)
        return point.study.reset_head if run.task == point.task.spec else "redraw"

    def cut(
        self,
        point: Point,
        level: int,
        *,
        parents: tuple[str, ...] = (),
        rides: str = "",
        **how: Any,
    ) -> str:
        """A cut to the sparsity of `level`; `how` holds the fields that say by which rule."""
        spec = CutSpec(
            model=point.model.spec,
            sparsity=point.schedule.sparsity(level),
            pool=point.study.pool,
            semantics=CUT_SEMANTICS,
            **how,
        )
        return self.add(spec, point, parents=parents, rides=rides, level=level)

    def dense(self, point: Point) -> str:
        return self.train(point, start=self.theta_0(point))

    def theta_0(self, point: Point) -> Start:
        """Drawn, read from a file, or the end of the run that pre-trains the model."""
        origin = point.origin
        if origin is None:
            return point.model.start(point.seeded("init"))
        spec = TrainSpec(
            model=origin.model.spec,
            task=origin.task.spec,
            recipe=origin.recipe,
            seeds=Seeds(head=origin.seed, data=origin.seed),
            start=origin.model.start(origin.seed),
        )
        run = self.add(spec, origin)
        end = RewindSpec(run=run, step=origin.recipe.steps)
        kept = self.add(end, origin, parents=(run,), rides=run)
        return Start(kind="rewind", trial=kept)

    def start(self, point: Point) -> Start:
        """theta_0, or theta_i kept from the dense run at the point's rewind step."""
        if point.rewind == 0:
            return self.theta_0(point)
        if point.identity() in self._starts:
            return self._starts[point.identity()]
        dense = self.dense(point)
        kept = self.add(
            RewindSpec(run=dense, step=point.rewind), point, parents=(dense,), rides=dense
        )
        return self._starts.setdefault(point.identity(), Start(kind="rewind", trial=kept))

    def imp_ticket(self, point: Point, level: int) -> str:
        """Key of the ticket that iterative magnitude pruning cuts at `level` (VLT, Algorithm 1).

        The run that scores ticket k also yields ticket k+1: it trains the full schedule from the
        same weights, so no second run is needed.
        """
        chain = self._chains.setdefault(point.identity(), [])
        while len(chain) < level:
            depth = len(chain)
            start, ticket = self.theta_0(point), ""
            if depth:
                start, ticket = self.start(point), chain[-1]
            run = self.train(point, start=start, ticket=ticket, level=depth, role=self.role)
            chain.append(
                self.cut(point, depth + 1, parents=(run,), rides=run, run=run, **chosen_by(point))
            )
        return chain[level - 1]

    def ticket_point(self, point: Point) -> Point:
        """Where the tickets of `point` are cut."""
        return point.chain or point
