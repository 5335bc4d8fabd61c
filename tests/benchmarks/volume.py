"""Cost of large sweeps: planning, scheduling, reading, reporting, store requests, MLflow calls.

Each plan is compared with one of a tenth of its size: ten times the trials should take about ten
times the time. Records are synthetic but of realistic size (2 kB, 20 points of a loss curve).
Requests to the store are counted by a proxy in front of SeaweedFS while a real worker trains, and
calls to MLflow at its client.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cluster.local import servers as local
from orchestrator.expand.studies import expand_sweep
from orchestrator.plan.counts import count_plan
from orchestrator.plan.graph import Plan, Trial
from orchestrator.plan.keys import to_json
from orchestrator.report.write import write_report
from orchestrator.schedule.batching import next_chunk
from orchestrator.schedule.frontier import Frontier
from orchestrator.store import paths
from orchestrator.store.record import Record, TicketRef, WeightsRef
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TrialStore, thread_map
from orchestrator.sweep.config import Sweep, Win
from orchestrator.sweep.resolve import Resolver
from orchestrator.tracking.experiment import Experiment, open_experiment
from orchestrator.tracking.projection import Projection
from orchestrator.worker.protocol import Assignment
from tests.benchmarks.alone import Cost, alone, measured
from tests.benchmarks.sharing import context
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row
from tests.support.s3_proxy import run_proxy
from tests.support.sweeps import plan_of, sweep_document
from trainables.data.fingerprint import fingerprint
from trainables.spec import PruneSpec, RewindSpec

POOL = 102_400
"""Number of prunable weights of UNITER-tiny."""
LARGE, SMALL = sized((275, 28), smoke=(2, 1))
"""Number of seeds in the plans of about 100,000 and 10,000 trials."""
MLFLOW_RUNS = sized(263, smoke=4)
"""Number of training runs that are projected to MLflow: all of one seed."""


def plan_with(seeds: int) -> Plan:
    """About 367 trials per seed: five rewind points, two kinds of tickets, four controls."""
    return plan_of(
        sweep_document(
            seed=list(range(seeds)),
            rewind=[0, 2, 4, 6, 8],
            schedule={"kind": "geometric", "rate": 0.2, "levels": 9},
            tickets=["imp", "omp"],
            controls=["random", "random_layerwise", "reinit", "shuffle_within"],
        )
    )


def run() -> Iterator[Row]:
    for what, work, limit in (
        ("planned, counted and scheduled on 64 slots", _measure_scheduling, 15),
        ("in a report, from records in memory", _measure_report, 15),
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
    yield from alone(_compare_reading)
    yield from alone(_compare_mlflow_calls)
    yield from alone(_count_store_requests)


def _measure_scheduling(seeds: int) -> tuple[int, Cost]:
    return measured(lambda: _schedule(seeds))


def _schedule(seeds: int) -> int:
    plan = plan_with(seeds)
    count_plan(plan, {}, {"uniter-tiny": {"encoder+pooler": POOL}})
    frontier = Frontier(plan)
    while chunk := next_chunk(frontier, slots=64, max_leaves=25):
        for item in chunk:
            for key in sorted(item.members):
                frontier.commit(key)
    assert frontier.settled
    return len(plan)


def _measure_report(seeds: int) -> tuple[int, Cost]:
    plan = plan_with(seeds)
    records = {trial.key: record_of(trial) for trial in plan}
    with tempfile.TemporaryDirectory() as folder:
        return measured(lambda: _report(plan, records, Path(folder)))


def _report(plan: Plan, records: dict[str, Record], folder: Path) -> int:
    write_report(plan, records, _any_ticket, folder, Win(), command="", failures={})
    return len(plan)


def _compare_reading() -> list[Row]:
    """Read all records of a store: first one by one, then through the catalog written by that."""
    plan = plan_with(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        services = local.start_services(Path(folder), names=["s3"])
        try:
            os.environ.update(services.environment())
            objects = S3ObjectStore(
                StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)
            )
            thread_map(TrialStore(objects).commit, map(record_of, plan))
            single_s, count = _timed(lambda: len(TrialStore(objects).records()))
            list_s, _ = _timed(lambda: len(TrialStore(objects).keys()))
            catalog_s, catalog_count = _timed(lambda: len(TrialStore(objects).records()))
        finally:
            local.stop_services(Path(folder))
    assert count == catalog_count == len(plan)
    return [
        Row(
            what=f"{count:,} records listed and read, CPU time",
            ours=f"through the catalog: {catalog_s:.1f} s, {list_s:.1f} s of it to list them",
            other=f"one by one: {single_s:.1f} s",
            ratio=f"{single_s / catalog_s:.1f}x",
            limit="≥ 5",
            met=single_s / catalog_s >= 5,
        )
    ]


@dataclass(slots=True)
class CountingClient:
    """An MLflow client that counts the calls of each method; each call is one request."""

    client: Any
    calls: Counter[str] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self.client, name)


def _compare_mlflow_calls() -> list[Row]:
    """Project training runs to MLflow in one batch, and one by one."""
    plan = plan_with(1)
    records = [record_of(trial) for trial in islice(plan.training_runs(), MLFLOW_RUNS)]
    with tempfile.TemporaryDirectory() as folder:
        experiment = open_experiment(f"sqlite:///{folder}/mlflow.db", "batch")
        batch_calls, batch_s = _count_calls(plan, experiment, [records])
        experiment = open_experiment(f"sqlite:///{folder}/mlflow.db", "single")
        single_calls, single_s = _count_calls(plan, experiment, [[record] for record in records])
    runs = len(records)
    return [
        Row(
            what=f"calls to MLflow for {runs} training runs and their curves",
            ours=f"in one batch: {batch_calls / runs:.1f} per run, {runs / batch_s:.1f} runs/s",
            other=f"one by one: {single_calls / runs:.1f} per run, {runs / single_s:.1f} runs/s",
            ratio=f"{single_calls / batch_calls:.1f}x",
        )
    ]


def _count_calls(
    plan: Plan, experiment: Experiment, batches: list[list[Record]]
) -> tuple[int, float]:
    client = CountingClient(experiment.client)
    projection = Projection(plan, Experiment(client, experiment.id))  # type: ignore[arg-type]
    begin = time.perf_counter()
    for batch in batches:
        projection.put(batch)
    return client.calls.total(), time.perf_counter() - begin


def _count_store_requests() -> list[Row]:
    """Run a real chain on a real worker whose store is behind a counting proxy."""
    from orchestrator.worker.trial import TrialWorker  # imports torch

    sweep = Sweep.model_validate(
        sweep_document(schedule={"rate": 0.2, "levels": 3}, controls=[])
        | {"recipes": {"short": {"steps": 4, "eval_examples": 64}}}
    )
    inputs = Resolver(sweep, fingerprint)
    plan = expand_sweep(inputs)
    with tempfile.TemporaryDirectory() as folder:
        services = local.start_services(Path(folder), names=["s3"])
        try:
            os.environ.update(services.environment())
            with run_proxy(services.s3_endpoint) as (proxy, endpoint):
                address = StoreAddress(url=services.bucket_url, endpoint=endpoint)
                worker = TrialWorker(
                    context(plan, address, inputs.locations(), Path(folder)), lambda: "continue"
                )
                for item in Frontier(plan).items:
                    members = tuple(plan.trials[key] for key in sorted(item.members))
                    worker.perform(Assignment(plan.trials[item.key], members))
        finally:
            local.stop_services(Path(folder))
    runs = len(list(plan.training_runs()))
    writes = sum(request.method == "PUT" for request in proxy.requests)
    return [
        Row(
            what="requests to the store per training run of a chain",
            ours=f"{len(proxy.requests) / runs:.1f}, {writes / runs:.1f} of them writes",
            other="record, ticket, lease and log, each written once: 4",
            ratio="",
        )
    ]


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    begin = time.process_time()
    count = work()
    return time.process_time() - begin, count


def record_of(trial: Trial) -> Record:
    """Return a record of realistic size; its numbers are random, seeded by the trial's key."""
    rng = random.Random(trial.key)
    digest = rng.randbytes(32).hex()
    ticket = weights = None
    scores: dict[str, float] = {}
    history: tuple[dict[str, float], ...] = ()
    if isinstance(trial.spec, PruneSpec):
        kept = round(POOL * (1 - trial.spec.sparsity))
        ticket = TicketRef(sha256=digest, kept=kept, total=POOL, bytes=4_000)
    elif isinstance(trial.spec, RewindSpec):
        path = paths.weights(trial.spec.run, trial.spec.step, digest)
        weights = WeightsRef(path=path, sha256=digest, bytes=1_000_000)
    else:
        score = 100 * rng.random()
        scores = {"score": score, "last": score, "best": score, "best_step": 10.0, "prior": 67.0}
        history = tuple(
            {"step": float(k), "loss": rng.random(), "lr": 1e-4 * rng.random()} for k in range(20)
        )
    return Record(
        key=trial.key,
        kind=trial.kind,
        spec=to_json(trial.spec),
        labels={"sweep": "bench", "model": trial.model, "task": trial.task, "level": trial.level},
        parents=trial.parents,
        ticket=ticket,
        weights=weights,
        scores=scores,
        history=history,
        checks={"pruned_nonzero": 0, "start_sha256": digest, "final_sha256": digest},
        costs={"seconds": 5.0, "steps": 10.0, "evaluation_seconds": 0.5, "peak_rss_mb": 900.0},
        environment={"torch": "2", "ray": "2", "machine": "Linux x86_64", "threads": "1"},
        created_at="2026-01-02T03:04:05.678+00:00",
    )


def _any_ticket(sha256: str) -> Ticket:
    masks = {"weight": np.ones((10, 10), dtype=np.bool_)}
    return Ticket.from_arrays(
        masks, architecture="uniter", model_sha256=sha256, pool="encoder+pooler"
    )
