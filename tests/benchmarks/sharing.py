"""A whole grid of real trials: planned and shared by our driver, or cell by cell on Ray Tune.

UNITER-tiny on easy-VQA, 2 seeds, IMP from theta_0 and from an early rewind point over 9 linear
levels, random and layer-matched controls: 110 scores. The recipe is cut to a few steps, so the wall
times are mostly what surrounds training; the number of training runs does not depend on it.

On plain Ray Tune each score is one Tune trial that runs its own chain from the dense network on,
in memory, by the same `trainables.run`; actors are reused and keep their decoded data. Both sides
run in one call, on as many slots as there are cores, under the same settings of Tune, and must give
the same scores to the last bit. Ours includes starting SeaweedFS and writing every result to it.
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

from cluster.local import servers as local
from orchestrator.expand import studies as expand
from orchestrator.plan.counts import preview
from orchestrator.plan.graph import Plan
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.tickets import TicketStore
from orchestrator.sweep import config, sweep_file
from orchestrator.sweep import resolve as inputs
from orchestrator.tune import driver
from orchestrator.worker.protocol import Context
from orchestrator.worker.start import start_worker
from tests.benchmarks.scheduling import BLIND
from tests.benchmarks.table import Row
from trainables import run as trainable
from trainables.data.fingerprint import fingerprint
from trainables.spec import CutSpec, RewindSpec, TrainSpec, TrialSpec
from trainables.tickets.weights import Masks
from trainables.training.sink import Turn

STEPS = 10
GRID: dict[str, Any] = {
    "name": "sharing",
    "recipes": {"short": {"steps": STEPS, "eval_examples": 256}},
    "studies": {
        "tickets": {
            "model": "uniter-tiny",
            "task": "easy_vqa",
            "recipe": "short",
            "seed": [0, 1],
            "rewind": [0, STEPS // 4],
            "schedule": {"kind": "linear", "rate": 0.1, "levels": 9},
            "tickets": ["imp"],
            "controls": ["random", "random_layerwise"],
        }
    },
}
QUICKSTART = Path("configs/quickstart.yaml")
Scores = dict[str, float]
"""By key of the training run."""


def run() -> Iterator[Row]:
    sweep = config.Sweep.model_validate(GRID)
    found = inputs.read(sweep, fingerprint)
    plan = expand.expand(sweep, found)
    shared, scores = _measure(partial(_shared, plan, found.locations()))
    naive, again = _measure(partial(_cell_by_cell, plan, found.locations()))
    assert scores == again, "the two sides disagree on a score"
    slots = os.cpu_count()
    yield _runs(plan, f"training runs for {len(plan.cells)} scores, 9 levels", 4)
    yield Row(
        what=f"the same with {STEPS} steps a run on {slots} slots, wall time",
        ours=f"{shared:.0f} s",
        other=f"plain Ray Tune, cell by cell: {naive:.0f} s",
        ratio=f"{naive / shared:.1f}x",
    )
    quickstart = sweep_file.load(QUICKSTART)
    planned = expand.expand(quickstart, inputs.read(quickstart, fingerprint))
    yield _runs(planned, f"training runs that {QUICKSTART} plans", 0)


def _runs(plan: Plan, what: str, limit: int) -> Row:
    counts = preview(plan, {}, {"uniter-tiny": {"encoder+pooler": 0}})
    ratio = counts.naive_trials / counts.trials
    return Row(
        what=what,
        ours=f"{counts.trials}",
        other=f"each cell its own chain: {counts.naive_trials}",
        ratio=f"{ratio:.1f}x",
        limit=f"≥ {limit}" if limit else "",
        met=ratio >= limit if limit else None,
    )


def _measure(side: Callable[[Path], Scores]) -> tuple[float, Scores]:
    """Wall seconds, including the start of the actors, and the scores."""
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
    """For workers of one CPU thread that keep what they decode under `folder`."""
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
        stall_s=1800.0,
        checkpoint_every_s=300.0,
        lost_every_s=14_400.0,
    )


def _shared(plan: Plan, locations: dict[str, str], folder: Path) -> Scores:
    services = local.start(folder, names=["s3"])
    try:
        os.environ.update(services.environment())
        address = StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)
        start = partial(start_worker, context(plan, address, locations, folder))
        summary = driver.run(plan, set(), start, config.Placement(), BLIND)
        assert not summary.failures, summary
        records = TicketStore(S3Objects(address)).records(plan.trials)
        return {trial.key: records[trial.key].scores["score"] for trial in plan.training_runs()}
    finally:
        local.stop(folder)


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
    ended = (results[place].metrics or {} for place in range(len(results)))
    return {metrics["cell"]: metrics["score"] for metrics in ended}


class Chain(tune.Trainable):
    """A Tune trial: all that one score needs, from the dense network on."""

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
    """Trains the chain that ends in the run `cell`; nothing is taken from other cells."""
    needed = _ancestry(plan, cell)
    chain = Unshared(locations)
    for key in (key for key in plan.trials if key in needed):  # parents before children
        spec = plan.trials[key].spec
        if isinstance(spec, TrainSpec):
            riders = {k: plan.trials[k].spec for k in needed if plan.trials[k].rides == key}
            chain.train(key, spec, riders)
        elif isinstance(spec, CutSpec) and key not in chain.tickets:
            like = chain.tickets.get(spec.like)
            chain.tickets[key] = trainable.cut(
                spec, trainable.Inputs(data=Path(), cache=Path(), like=like)
            )
    return chain.score


def _ancestry(plan: Plan, key: str) -> set[str]:
    """The trials of all kinds that `key` needs, itself included."""
    found = {key}
    stack = [key]
    while stack:
        fresh = set(plan.trials[stack.pop()].parents) - found
        found |= fresh
        stack += fresh
    return found


@dataclass(slots=True)
class Unshared:
    """What a chain has made so far, in memory; a `trainables.run` sink."""

    locations: Mapping[str, str]
    tickets: dict[str, Masks] = field(default_factory=dict)
    points: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    score: float = math.nan
    """Of the last run."""
    _rewinds: dict[int, str] = field(default_factory=dict)
    """Of the run in progress: step to the key of its rewind trial."""

    def train(self, key: str, spec: TrainSpec, riders: Mapping[str, TrialSpec]) -> None:
        self._rewinds = {s.step: k for k, s in riders.items() if isinstance(s, RewindSpec)}
        outcome = trainable.run(
            spec,
            trainable.Inputs(
                data=Path(self.locations[spec.task.data]),
                cache=Path(),
                rewind=self.points.get(spec.start.trial),
                ticket=self.tickets.get(spec.ticket),
            ),
            self,
            cuts={k: s for k, s in riders.items() if isinstance(s, CutSpec)},
            rewinds=self._rewinds,
        )
        self.score = outcome.scores["score"]

    def rewind(self, step: int, payload: bytes) -> None:
        self.points[self._rewinds[step]] = load(payload)

    def cut(self, key: str, masks: Masks) -> None:
        self.tickets[key] = masks

    def checkpoint(self, payload: bytes) -> None: ...
    def alive(self) -> None: ...
    def turn(self, step: int) -> Turn:
        return "go on"

    def progress(self, step: int, values: Mapping[str, float]) -> None: ...
