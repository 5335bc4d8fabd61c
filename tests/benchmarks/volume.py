"""What a large sweep asks of planning, reading, reporting, the store and MLflow.

Sizes are compared with a tenth of themselves: ten times the trials should take about ten times the
time. Records are made up but of the usual size (2 kB, 20 points of a loss curve). Requests to the
store are counted on their way to SeaweedFS while a real worker trains, calls to MLflow at its
client.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cluster.local import servers as local
from orchestrator.expand import studies as expand
from orchestrator.plan.counts import preview
from orchestrator.plan.graph import Plan, Trial
from orchestrator.plan.keys import to_json
from orchestrator.report import write_report
from orchestrator.schedule.batching import next_lane
from orchestrator.schedule.frontier import Frontier
from orchestrator.store import paths
from orchestrator.store.record import Record, TicketRef, WeightsRef
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TicketStore, each
from orchestrator.sweep import resolve as inputs
from orchestrator.sweep.config import Sweep, Win
from orchestrator.tracking.experiment import Experiment, connect
from orchestrator.tracking.projection import Projection
from orchestrator.worker.protocol import Work
from tests.benchmarks.alone import Cost, alone, measured
from tests.benchmarks.sharing import context
from tests.benchmarks.table import Row
from tests.support.s3_proxy import serving
from tests.support.sweeps import document, plan_of
from trainables.data.fingerprint import fingerprint
from trainables.spec import CutSpec, RewindSpec

POOL = 102_400
"""Weights that UNITER-tiny can lose."""
LARGE, SMALL = 275, 28
"""Seeds of the plan of about 100,000 and 10,000 trials."""
MIRRORED = 1
"""Seeds of the plan whose training runs are put into MLflow."""


def plan_with(seeds: int) -> Plan:
    """About 367 trials a seed: five rewind points, two kinds of tickets, four controls."""
    return plan_of(
        document(
            seed=list(range(seeds)),
            rewind=[0, 2, 4, 6, 8],
            schedule={"kind": "geometric", "rate": 0.2, "levels": 9},
            tickets=["imp", "omp"],
            controls=["random", "random_layerwise", "reinit", "shuffle_within"],
        )
    )


def run() -> Iterator[Row]:
    for what, work, limit in (
        ("planned, counted and scheduled on 64 slots", _scheduled, 15),
        ("in a report, from records in memory", _reported, 15),
    ):
        (trials, large), (fewer, small) = alone(work, LARGE), alone(work, SMALL)
        ratio = large.seconds / small.seconds
        yield Row(
            what=f"{trials:,} trials {what}, CPU time",
            ours=f"{large.seconds:.1f} s, {large.peak_mb:.0f} MiB",
            other=f"{fewer:,} trials: {small.seconds:.1f} s, {small.peak_mb:.0f} MiB",
            ratio=f"{ratio:.1f}x",
            limit=f"≤ {limit}",
            met=ratio <= limit,
        )
    yield from alone(_read)
    yield from alone(_mirrored)
    yield from alone(_asked)


def _scheduled(seeds: int) -> tuple[int, Cost]:
    return measured(lambda: _schedule(seeds))


def _schedule(seeds: int) -> int:
    plan = plan_with(seeds)
    preview(plan, {}, {"uniter-tiny": {"encoder+pooler": POOL}})
    frontier = Frontier(plan)
    while lane := next_lane(frontier, slots=64, most=25):
        for unit in lane:
            for key in sorted(unit.members):
                frontier.commit(key)
    assert frontier.settled
    return len(plan)


def _reported(seeds: int) -> tuple[int, Cost]:
    plan = plan_with(seeds)
    records = {trial.key: record_of(trial) for trial in plan}
    with tempfile.TemporaryDirectory() as folder:
        return measured(lambda: _report(plan, records, Path(folder)))


def _report(plan: Plan, records: dict[str, Record], folder: Path) -> int:
    write_report(plan, records, _any_ticket, folder, Win(), command="", failures={})
    return len(plan)


def _read() -> list[Row]:
    """All records of a store: one by one at first, then from the catalog that this left."""
    plan = plan_with(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        services = local.start(Path(folder), names=["s3"])
        try:
            os.environ.update(services.environment())
            objects = S3Objects(
                StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)
            )
            each(TicketStore(objects).commit, map(record_of, plan))
            single, count = _timed(lambda: len(TicketStore(objects).records()))
            listed, _ = _timed(lambda: len(TicketStore(objects).keys()))
            together, again = _timed(lambda: len(TicketStore(objects).records()))
        finally:
            local.stop(Path(folder))
    assert count == again == len(plan)
    return [
        Row(
            what=f"{count:,} records listed and read, CPU time",
            ours=f"through the catalog: {together:.1f} s, {listed:.1f} s of it to list them",
            other=f"one by one: {single:.1f} s",
            ratio=f"{single / together:.1f}x",
            limit="≥ 5",
            met=single / together >= 5,
        )
    ]


@dataclass(slots=True)
class Counted:
    """An MLflow client that counts the calls of each method; each is one request."""

    client: Any
    calls: Counter[str] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self.client, name)


def _mirrored() -> list[Row]:
    """Training runs put into MLflow as they queue up behind it, and each by itself."""
    plan = plan_with(MIRRORED)
    records = [record_of(trial) for trial in plan.training_runs()]
    with tempfile.TemporaryDirectory() as folder:
        found = connect(f"sqlite:///{folder}/mlflow.db", "together")
        together, seconds = _calls(plan, found, [records])
        found = connect(f"sqlite:///{folder}/mlflow.db", "singly")
        singly, slowly = _calls(plan, found, [[record] for record in records])
    runs = len(records)
    return [
        Row(
            what=f"calls to MLflow for {runs} training runs and their curves",
            ours=f"many at once: {together / runs:.1f} a run, {runs / seconds:.1f} runs/s",
            other=f"one by one: {singly / runs:.1f} a run, {runs / slowly:.1f} runs/s",
            ratio=f"{singly / together:.1f}x",
        )
    ]


def _calls(plan: Plan, experiment: Experiment, batches: list[list[Record]]) -> tuple[int, float]:
    client = Counted(experiment.client)
    projection = Projection(plan, Experiment(client, experiment.id))  # type: ignore[arg-type]
    begin = time.perf_counter()
    for batch in batches:
        projection.put(batch)
    return client.calls.total(), time.perf_counter() - begin


def _asked() -> list[Row]:
    """A chain of real runs by a real worker, whose store lies behind a proxy that counts."""
    from orchestrator.worker.trial import TrialWorker  # imports torch

    sweep = Sweep.model_validate(
        document(schedule={"rate": 0.2, "levels": 3}, controls=[])
        | {"recipes": {"short": {"steps": 4, "eval_examples": 64}}}
    )
    found = inputs.read(sweep, fingerprint)
    plan = expand.expand(sweep, found)
    with tempfile.TemporaryDirectory() as folder:
        services = local.start(Path(folder), names=["s3"])
        try:
            os.environ.update(services.environment())
            with serving(services.s3_endpoint) as (proxy, endpoint):
                address = StoreAddress(url=services.bucket_url, endpoint=endpoint)
                worker = TrialWorker(
                    context(plan, address, found.locations(), Path(folder)), lambda: "go"
                )
                for unit in Frontier(plan).units:
                    members = tuple(plan.trials[key] for key in sorted(unit.members))
                    worker.perform(Work(plan.trials[unit.head], members))
        finally:
            local.stop(Path(folder))
    runs = len(list(plan.training_runs()))
    writing = sum(request.method == "PUT" for request in proxy.requests)
    return [
        Row(
            what="requests to the store per training run of a chain",
            ours=f"{len(proxy.requests) / runs:.1f}, {writing / runs:.1f} of them writing",
            other="record, ticket, claim and log, each written once: 4",
            ratio="",
        )
    ]


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    begin = time.process_time()
    count = work()
    return time.process_time() - begin, count


def record_of(trial: Trial) -> Record:
    """A record of the usual size; its numbers are drawn from the trial's key."""
    chance = random.Random(trial.key)
    digest = chance.randbytes(32).hex()
    ticket = weights = None
    scores: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()
    if isinstance(trial.spec, CutSpec):
        kept = round(POOL * (1 - trial.spec.sparsity))
        ticket = TicketRef(sha256=digest, kept=kept, total=POOL, bytes=4_000)
    elif isinstance(trial.spec, RewindSpec):
        path = paths.weights(trial.spec.run, trial.spec.step, digest)
        weights = WeightsRef(path=path, sha256=digest, bytes=1_000_000)
    else:
        score = 100 * chance.random()
        scores = {"score": score, "last": score, "best": score, "best_step": 10.0, "prior": 67.0}
        history = tuple(
            {"step": float(k), "loss": chance.random(), "lr": 1e-4 * chance.random()}
            for k in range(20)
        )
    return Record(
        key=trial.key,
        kind=trial.kind,
        spec=to_json(trial.spec),
        about={"sweep": "bench", "model": trial.model, "task": trial.task, "level": trial.level},
        parents=trial.parents,
        ticket=ticket,
        weights=weights,
        scores=scores,
        history=history,
        checks={"pruned_nonzero": 0, "start_sha256": digest, "final_sha256": digest},
        costs={"seconds": 5.0, "steps": 10.0, "evaluation_seconds": 0.5, "peak_rss_mb": 900.0},
        environment={"torch": "2", "ray": "2", "machine": "Linux x86_64", "threads": "1"},
        created="2026-01-02T03:04:05.678+00:00",
    )


def _any_ticket(sha256: str) -> Ticket:
    masks = {"weight": np.ones((10, 10), dtype=np.bool_)}
    return Ticket.from_masks(masks, scheme="uniter", model_sha256=sha256, pool="encoder+pooler")
