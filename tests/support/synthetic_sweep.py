"""A synthetic sweep for report tests: a plan, records of its trials, and their tickets."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.plan.graph import DENSE, Cell, Curve, Plan, Trial
from orchestrator.store.record import Record, TicketRef
from orchestrator.store.ticket import Ticket
from trainables.spec import ModelSpec, PruneSpec, Recipe, TaskSpec, TrainSpec

MODEL = ModelSpec(architecture="uniter", size="tiny")
TASK = TaskSpec(name="easy_vqa", data="0" * 64)
SHAPES = {
    **{
        f"encoder.layer.{layer}.{kind}.weight": shape
        for layer in range(2)
        for kind, shape in {
            "attention.self.query": (64, 64),
            "attention.self.key": (64, 64),
            "attention.self.value": (64, 64),
            "attention.output.dense": (64, 64),
            "intermediate.dense": (256, 64),
            "output.dense": (64, 256),
        }.items()
    },
    "pooler.dense.weight": (64, 64),
}
TOTAL = sum(a * b for a, b in SHAPES.values())


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


@dataclass
class SyntheticSweep:
    """Collects cells and records; reports read `plan()` and `records`."""

    name: str = "synthetic"
    trials: dict[str, Trial] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    tickets: dict[str, tuple[tuple[object, ...], float]] = field(default_factory=dict)
    """SHA-256 of a ticket -> the values that identify it, and its sparsity."""
    models: dict[str, ModelSpec] = field(default_factory=dict)
    """Label in `add_cell` -> spec; other labels mean `MODEL`."""
    tasks: dict[str, str] = field(default_factory=dict)
    """Label -> name of the task; other labels mean `TASK`."""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    """Label -> recipe; other labels mean the default recipe."""

    def plan(self) -> Plan:
        return Plan(self.name, self.trials, tuple(self.cells))

    def fetch_ticket(self, sha256: str) -> Ticket:
        (model, origin, _, _, rewind, seed, _), sparsity = self.tickets[sha256]
        return synthetic_ticket(sparsity, seed=seed, of=f"{model}/{origin}/{rewind}")

    def add_cell(
        self,
        source: str,
        level: int,
        sparsity: float,
        seed: int,
        score: float | None,
        *,
        rewind: int = 0,
        schedule: str = "linear 0.1",
        model: str = "uniter-tiny",
        task: str = "easy_vqa",
        study: str = "main",
        recipe: str = "default",
        origin: str = "",
        pool: str = "",
        prior: float = 67.0,
        history: int = 5,
        scores: Mapping[str, float] | None = None,
    ) -> str:
        """Add a cell with its training run and prune trial, and return the key of the run. Without
        a score, they have no record.

        `origin` (`TASK/RECIPE/imp`) names the curve whose tickets the run uses, if it is not its
        own. `pool` stands for a setting of a study that changes its tickets but not its labels.
        """
        is_dense = source == DENSE
        curve = Curve(
            study=study, model=model, task=task, recipe=recipe,
            schedule="" if is_dense else schedule, rewind=0 if is_dense else rewind,
            source=source, seed=seed,
        )  # fmt: skip
        origin = origin or f"{task}/{recipe}/{source}"
        pruned_at = 0 if source == "random" else rewind  # random tickets ignore the weights
        ticket_id = (model, origin, pool, schedule, pruned_at, seed, level)
        run = digest("run", task, recipe, source, rewind, *ticket_id)
        prune_trial = "" if is_dense else digest("prune", *ticket_id)
        spec = self.models.get(model, MODEL)
        if prune_trial:
            prune = PruneSpec(model=spec, sparsity=sparsity, seed=seed)
            self.trials[prune_trial] = Trial(
                key=prune_trial, kind="prune", spec=prune, model=model, task=task, level=level
            )
        task_spec = replace(TASK, name=self.tasks.get(task, TASK.name))
        recipe_spec = self.recipes.get(recipe, Recipe())
        train = TrainSpec(model=spec, task=task_spec, recipe=recipe_spec, ticket=prune_trial)
        parents = (prune_trial,) if prune_trial else ()
        self.trials[run] = Trial(
            key=run, kind="train", spec=train, parents=parents, model=model, task=task, level=level
        )
        self.cells.append(
            Cell(curve=curve, level=level, sparsity=sparsity, trial=run, ticket=prune_trial)
        )
        if score is not None:
            ref = self._ticket(ticket_id, sparsity) if prune_trial else None
            if prune_trial:
                self.records[prune_trial] = Record(
                    key=prune_trial, kind="prune", spec={"sparsity": sparsity}, ticket=ref,
                    costs={"seconds": 0.2}, created_at=self._created(),
                )  # fmt: skip
            self.records[run] = Record(
                key=run,
                kind="train",
                spec={"lr": 2e-3},
                labels={"sweep": self.name, "model": model, "task": task, "level": level},
                parents=parents,
                ticket=ref,
                scores={
                    "score": score, "last": score, "best": score + 0.25, "best_step": 400.0,
                    "prior": prior, **(scores or {}),
                },
                history=tuple(_history(history, score)),
                checks={"pruned_nonzero": 0},
                costs={"seconds": 16.0 + seed, "steps": 400.0, "peak_rss_mb": 900.0},
                environment={"python": "3.11", "torch": "2.13.0", "machine": "x86_64, 2 cores"},
                created_at=self._created(),
            )  # fmt: skip
        return run

    def add_pretraining_run(self, model: str, task: str) -> None:
        """Add a training run without a cell: a round of pre-training."""
        task_spec = replace(TASK, name=self.tasks[task])
        spec = TrainSpec(model=self.models.get(model, MODEL), task=task_spec, recipe=Recipe())
        run = digest("round", model, task)
        self.trials[run] = Trial(key=run, kind="train", spec=spec, model=model, task=task)

    def _created(self) -> str:
        minutes, seconds = divmod(len(self.records), 60)
        return f"2026-01-02T{3 + minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}Z"

    def _ticket(self, ticket_id: tuple[object, ...], sparsity: float) -> TicketRef:
        kept = TOTAL - round(TOTAL * sparsity)
        sha256 = digest("ticket", *ticket_id)
        self.tickets[sha256] = (ticket_id, sparsity)
        return TicketRef(sha256=sha256, kept=kept, total=TOTAL, bytes=4096)


def _history(points: int, score: float) -> list[dict[str, float]]:
    steps = [400.0 * (i + 1) / points for i in range(points)]
    rows = [{"step": s, "loss": 2.0 * 0.99 ** (s / 4), "lr": 2e-3 * (1 - s / 400)} for s in steps]
    rows[-1]["score"] = score
    return rows


def synthetic_ticket(sparsity: float, *, seed: object, of: str) -> Ticket:
    """Keep the largest of synthetic weights, or random ones for random tickets.

    Weights of one seed resemble each other, and early layers have larger weights.
    """
    unique = np.random.default_rng(int(digest(seed, of)[:8], 16))
    common = np.random.default_rng(7)
    by_seed = np.random.default_rng(int(digest(seed)[:8], 16))
    weights = {}
    for depth, (name, shape) in enumerate(SHAPES.items()):
        if "/random" in of:
            weights[name] = unique.random(shape)
        else:
            blend = (
                common.normal(size=shape) + by_seed.normal(size=shape) + unique.normal(size=shape)
            )
            weights[name] = np.abs(blend) * (1.25 - 0.04 * depth)
    values = np.concatenate([w.ravel() for w in weights.values()])
    threshold = np.sort(values)[round(TOTAL * sparsity)]
    masks = {name: w >= threshold for name, w in weights.items()}
    return Ticket.from_arrays(
        masks, architecture="uniter", model_sha256="0" * 64, pool="encoder+pooler"
    )


def quickstart_sweep(*, missing: int = 0) -> SyntheticSweep:
    """Return a sweep with two seeds, levels to 90 %, IMP from theta_0 and theta_60, and controls.

    The last `missing` cells have no record. Scores follow the shape of a real run.
    """
    sweep = SyntheticSweep("quickstart")
    noise = np.random.default_rng(0)
    planned = []
    for seed in range(2):
        planned.append((DENSE, 0, seed, 0, 92.4 + 1.6 * seed))
    fall = {"imp": 0.5, "random": 9.0, "random_layerwise": 7.0}
    for rewind, source, seed, level in itertools.product((0, 60), fall, range(2), range(1, 10)):
        rise = 1.8 * np.sin(level / 3) if source == "imp" else 0.0
        score = 92.8 + seed + rise + rewind / 80 - fall[source] * (level / 9) ** 2
        planned.append((source, level, seed, rewind, score + noise.normal(0, 0.5)))
    for i, (source, level, seed, rewind, score) in enumerate(planned):
        has_score = i < len(planned) - missing
        sweep.add_cell(
            source, level, level / 10, seed, float(score) if has_score else None, rewind=rewind
        )  # fmt: skip
    return sweep
