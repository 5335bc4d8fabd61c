"""A complete grid of real trials: planned and shared by our driver, or cell by cell on Ray Tune.

The grid is UNITER-tiny on easy-VQA, 2 seeds, IMP from theta_0 and from an early rewind point over 9
linear levels, with random and layer-matched controls: 110 scores. The recipe has only a few steps,
so the wall times are mostly overhead around training. The number of training runs does not depend
on it.

On plain Ray Tune each score is one Tune trial that runs its own chain in memory, starting with the
dense network, with the same `trainables.run`. Actors are reused and keep their decoded data. Both
sides run in one call, with one slot per core, under the same Tune settings, and must give the same
scores to the last bit. Our side includes starting SeaweedFS and writing every result to it.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, RunConfig, TuneConfig, Tuner
from safetensors.torch import load
from torch import Tensor

from cluster.local.servers import start_services, stop_services
from orchestrator.credentials import aws_credentials
from orchestrator.expand.studies import expand_sweep
from orchestrator.plan.counts import count_plan
from orchestrator.plan.graph import Plan
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore
from orchestrator.sweep import config
from orchestrator.sweep.resolve import Resolver
from orchestrator.tune.driver import run_plan
from orchestrator.worker.protocol import Context
from orchestrator.worker.start import start_worker
from tests.benchmarks.scheduling import NULL_OBSERVER
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row
from trainables.data.fingerprint import fingerprint
from trainables.run import RunInputs, prune
from trainables.run import run as run_training
from trainables.spec import PruneSpec, RewindSpec, TrainSpec, TrialSpec
from trainables.tickets.base import Ticket
from trainables.training.sink import Action

STEPS = sized(10, smoke=4)
LEVELS = sized(9, smoke=2)
GRID: dict[str, Any] = {
    "name": "sharing",
    "recipes": {"short": {"steps": STEPS, "eval_examples": 256}},
    "studies": {
        "tickets": {
            "model": "uniter-tiny",
            "task": "easy_vqa",
            "recipe": "short",
            "seed": sized([0, 1], smoke=[0]),
            "rewind": [0, STEPS // 4],
            "schedule": {"kind": "linear", "rate": 0.1, "levels": LEVELS},
            "tickets": ["imp"],
            "controls": ["random", "random_layerwise"],
        }
    },
}
QUICKSTART = Path("configs/quickstart.yaml")
Scores = dict[str, float]
"""Key of the training run -> score."""


def run() -> Iterator[Row]:
    sweep = config.Sweep.model_validate(GRID)
    resolved = Resolver(sweep, fingerprint)
    plan = expand_sweep(resolved)
    our_seconds, our_scores = _measure(partial(_shared, plan, resolved.locations()))
    tune_seconds, tune_scores = _measure(partial(_cell_by_cell, plan, resolved.locations()))
    assert our_scores == tune_scores, "the two sides disagree on a score"
    slots = os.cpu_count()
    yield _runs(plan, f"training runs for {len(plan.cells)} scores, {LEVELS} levels", 4)
    yield Row(
        what=f"the same with {STEPS} steps a run on {slots} slots, wall time",
        ours=f"{our_seconds:.0f} s",
        other=f"plain Ray Tune, cell by cell: {tune_seconds:.0f} s",
        ratio=f"{tune_seconds / our_seconds:.1f}x",
    )
    quickstart = config.Sweep.from_file(QUICKSTART)
    planned = expand_sweep(Resolver(quickstart, fingerprint))
    yield _runs(planned, f"training runs that {QUICKSTART} plans", 0)


def _runs(plan: Plan, what: str, limit: int) -> Row:
    counts = count_plan(plan, {}, {"uniter-tiny": {"encoder+pooler": 0}})
    ratio = counts.naive_training_runs / counts.training_runs
    return Row(
        what=what,
        ours=f"{counts.training_runs}",
        other=f"each cell its own chain: {counts.naive_training_runs}",
        ratio=f"{ratio:.1f}x",
        limit=f"≥ {limit}" if limit else "",
        met=ratio >= limit if limit else None,
    )


def _measure(side: Callable[[Path], Scores]) -> tuple[float, Scores]:
    """Return the wall seconds, including the start of the actors, and the scores."""
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        begin = time.perf_counter()
        scores = side(Path(folder))
        seconds = time.perf_counter() - begin
        ray.shutdown()
    return seconds, scores


def context(plan: Plan, store: StoreAddress, locations: Mapping[str, str], folder: Path) -> Context:
    """Return the context of workers with one CPU thread that cache decoded data under `folder`."""
    return Context(
        sweep=plan.name,
        run="bench",
        store=store,
        locations=locations,
        cache=str(folder / "cache"),
        tracking="",
        threads=1,
        device="cpu",
        gpus=0.0,
        workers=1,
        nodes=1,
        stall_timeout_s=1800.0,
        checkpoint_every_s=300.0,
        mtbf_s=14_400.0,
        credentials=aws_credentials(),
    )


def _shared(plan: Plan, locations: dict[str, str], folder: Path) -> Scores:
    services = start_services(folder, names=["s3"])
    try:
        os.environ.update(services.environment())
        address = StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)
        start = partial(start_worker, context(plan, address, locations, folder))
        summary = run_plan(plan, set(), start, config.Placement(), NULL_OBSERVER)
        assert not summary.failures, summary
        assert not summary.outage, summary
        records = TrialStore(S3ObjectStore(address)).records(plan.trials)
        return {trial.key: records[trial.key].scores["score"] for trial in plan.training_runs()}
    finally:
        stop_services(folder)


def _cell_by_cell(plan: Plan, locations: dict[str, str], folder: Path) -> Scores:
    keys = sorted({cell.trial for cell in plan.cells})
    results = Tuner(
        tune.with_resources(
            tune.with_parameters(Chain, plan=plan, locations=locations), {"cpu": 1}
        ),
        param_space={"cell": tune.grid_search(keys)},
        tune_config=TuneConfig(metric="score", mode="max", reuse_actors=True),
        run_config=RunConfig(
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    assert not results.errors
    metrics = [results[index].metrics or {} for index in range(len(results))]
    return {each["cell"]: each["score"] for each in metrics}


class Chain(tune.Trainable):
    """A Tune trial: the complete chain of one score, starting with the dense network."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, plan: Plan, locations: dict[str, str]
    ) -> None:
        self.plan = plan
        self.locations = locations
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cell = new_config["cell"]
        return True

    def step(self) -> dict[str, Any]:
        score = score_of(self.plan, self.locations, self.cell)
        return {"cell": self.cell, "score": score, "done": True}


def score_of(plan: Plan, locations: Mapping[str, str], cell: str) -> float:
    """Train the chain that ends in the run `cell`, without results of other cells."""
    needed = _ancestry(plan, cell)
    chain = UnsharedChain(locations)
    for key in (key for key in plan.trials if key in needed):  # parents before children
        spec = plan.trials[key].spec
        if isinstance(spec, TrainSpec):
            by_products = {
                k: plan.trials[k].spec for k in needed if plan.trials[k].produced_by == key
            }
            chain.train(spec, by_products)
        elif isinstance(spec, PruneSpec) and key not in chain.tickets:
            reference = chain.tickets.get(spec.like)
            chain.tickets[key] = prune(
                spec, RunInputs(data=Path(), cache=Path(), reference=reference)
            )
    return chain.score


def _ancestry(plan: Plan, key: str) -> set[str]:
    """Return the keys of all trials that `key` needs, including `key`."""
    needed = {key}
    stack = [key]
    while stack:
        new = set(plan.trials[stack.pop()].parents) - needed
        needed |= new
        stack += new
    return needed


@dataclass(slots=True)
class UnsharedChain:
    """The results of a chain so far, in memory. It is a sink of its runs."""

    locations: Mapping[str, str]
    tickets: dict[str, Ticket] = field(default_factory=dict)
    points: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    score: float = math.nan
    """Score of the last run."""
    _rewinds: dict[int, str] = field(default_factory=dict)
    """Step -> key of the rewind trial, for the run in progress."""

    def train(self, spec: TrainSpec, by_products: Mapping[str, TrialSpec]) -> None:
        self._rewinds = {s.step: k for k, s in by_products.items() if isinstance(s, RewindSpec)}
        outcome = run_training(
            spec,
            RunInputs(
                data=Path(self.locations[spec.task.data]),
                cache=Path(),
                rewind=self.points.get(spec.start.trial),
                ticket=self.tickets.get(spec.ticket),
            ),
            self,
            prunes={k: s for k, s in by_products.items() if isinstance(s, PruneSpec)},
            rewinds=self._rewinds,
        )
        self.score = outcome.scores["score"]

    def rewind(self, step: int, payload: bytes) -> None:
        self.points[self._rewinds[step]] = load(payload)

    def ticket(self, key: str, ticket: Ticket) -> None:
        self.tickets[key] = ticket

    def checkpoint(self, payload: bytes) -> None: ...
    def heartbeat(self) -> None: ...
    def next_action(self, step: int) -> Action:
        return "continue"

    def progress(self, step: int, values: Mapping[str, float]) -> None: ...
