"""Trials per second, and processes started, for trials that do nothing.

The same DAG (chains of 10, and leaves that each depend on some level of a chain) is run by the
driver, by stock Ray Tune with one Tune trial per node (a searcher that returns None until the
parents are done, `reuse_actors=True`), and by a plain pool of Ray actors that a loop feeds. A trial
sleeps 3 ms.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune import CheckpointConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher

from orchestrator.monitor.observers import Observer
from orchestrator.plan.graph import Plan, Trial
from orchestrator.schedule.frontier import Frontier, WorkItem
from orchestrator.schedule.run_events import ItemCommitted, RunEvent
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Assignment, Poll, WorkResult
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row
from trainables.spec import ModelSpec, Recipe, TaskSpec, TrainSpec

SLOTS = 4
TRIAL_S = 0.003
DAGS = sized(((6, 140), (60, 1500)), smoke=((1, 10),))
"""Numbers of chains and of leaves."""
SPEC = TrainSpec(
    model=ModelSpec(architecture="uniter"),
    task=TaskSpec(name="easy_vqa", data="0" * 64),
    recipe=Recipe(steps=2),
)


def dag(chains: int, leaves: int, *, levels: int = 10) -> Plan:
    """Return a plan of `chains` chains of `levels` trials, and of `leaves` trials that each depend
    on a random level of a random chain."""
    trials: dict[str, Trial] = {}

    def add(key: str, parents: tuple[str, ...]) -> None:
        trials[key] = Trial(key=key, kind="train", spec=SPEC, parents=parents, model="m", task="t")

    for chain in range(chains):
        for level in range(levels):
            add(f"c{chain}-{level}", (f"c{chain}-{level - 1}",) if level else ())
    rng = random.Random(0)
    for leaf in range(leaves):
        add(f"l{leaf}", (f"c{rng.randrange(chains)}-{rng.randrange(levels)}",))
    return Plan("benchmark", trials)


def run() -> Iterator[Row]:
    """Compare on 4 slots whatever the number of cores."""
    for chains, leaves in DAGS:
        plan = dag(chains, leaves)
        ours = time_run(partial(run_driver, placement=Placement(slots=SLOTS)), plan, SLOTS)
        pool = time_run(_run_pool, plan, SLOTS)
        tune_run = time_run(partial(run_tune, slots=SLOTS), plan, SLOTS)
        for name, (seconds, starts), limit in (
            ("stock Ray Tune, one trial per node", tune_run, "≥ 1"),
            ("a plain Ray actor pool", pool, ""),
        ):
            ratio = seconds / ours[0]
            yield Row(
                what=f"{len(plan):,} no-op trials, {SLOTS} slots",
                ours=f"{ours[0]:.1f} s, {ours[1]} starts",
                other=f"{name}: {seconds:.1f} s, {starts} starts",
                ratio=f"{ratio:.1f}x",
                limit=limit,
                met=ratio >= 1 if limit else None,
            )
    yield Row(
        what=f"processes started for {len(plan):,} trials",
        ours=f"{ours[1]}",
        other=f"{SLOTS} slots",
        ratio=f"{ours[1] / SLOTS:.1f}x",
        limit="≤ 2",
        met=ours[1] <= 2 * SLOTS,
    )


class Runner(Protocol):
    def __call__(self, plan: Plan, folder: Path, observer: Observer) -> None: ...


class NullObserver:
    """An Observer that ignores all events."""

    def on_event(self, event: RunEvent) -> None: ...


NULL_OBSERVER = NullObserver()


def time_run(
    runner: Runner, plan: Plan, slots: int, observer: Observer = NULL_OBSERVER
) -> tuple[float, int]:
    """Return the wall seconds, actor starts included, and the number of actors started."""
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local",
            num_cpus=slots,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        begin = time.perf_counter()
        runner(plan, Path(folder), observer)
        seconds = time.perf_counter() - begin
        ray.shutdown()
        return seconds, len(list(Path(folder, "starts").iterdir()))


def _record_start(folder: Path) -> None:
    (folder / "starts").mkdir(exist_ok=True)
    (folder / "starts" / f"{os.getpid()}-{time.monotonic_ns()}").touch()


class NoOpWorker:
    """A worker that commits everything without doing anything."""

    def __init__(self, folder: Path, poll: Poll) -> None:
        _record_start(folder)

    def perform(self, assignment: Assignment) -> WorkResult:
        time.sleep(TRIAL_S)
        return WorkResult([trial.key for trial in assignment.members], 0.0)


def run_driver(plan: Plan, folder: Path, observer: Observer, *, placement: Placement) -> None:
    summary = driver.run_plan(plan, set(), partial(NoOpWorker, folder), placement, observer)
    assert summary.finished == len(plan), summary


class NodeTrainable(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        _record_start(Path(config["folder"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(TRIAL_S)
        return {"score": 0.0, "done": True}


class NodeSearcher(Searcher):
    """Runs one Tune trial per node of the plan."""

    def __init__(self, plan: Plan, folder: Path, observer: Observer) -> None:
        super().__init__(metric="score", mode="max")
        self.observer = observer
        self.frontier = Frontier(plan)
        self.folder = folder
        self.running: dict[str, WorkItem] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        item = self.frontier.peek()
        if item is None:
            return Searcher.FINISHED if self.frontier.settled else None
        self.frontier.start([item])
        self.running[trial_id] = item
        return {"node": item.key, "folder": str(self.folder)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        assert not error
        item = self.running.pop(trial_id)
        self.frontier.commit(item.key)
        self.observer.on_event(ItemCommitted(item, [item.key], 0.0))


def run_tune(plan: Plan, folder: Path, observer: Observer, *, slots: int) -> None:
    searcher = NodeSearcher(plan, folder, observer)
    Tuner(
        tune.with_resources(NodeTrainable, {"cpu": 1}),
        tune_config=TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=slots, reuse_actors=True
        ),
        run_config=RunConfig(
            storage_path=str(folder / "tune"),
            verbose=0,
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    assert searcher.frontier.settled


@ray.remote(num_cpus=1)
class PoolActor:
    def __init__(self, folder: Path) -> None:
        _record_start(folder)

    def work(self) -> None:
        time.sleep(TRIAL_S)


def _run_pool(plan: Plan, folder: Path, observer: Observer) -> None:
    frontier = Frontier(plan)
    idle = [PoolActor.remote(folder) for _ in range(SLOTS)]  # type: ignore[attr-defined]
    running: dict[Any, tuple[Any, WorkItem]] = {}
    while not frontier.settled:
        while idle and (item := frontier.peek()) is not None:
            frontier.start([item])
            actor = idle.pop()
            running[actor.work.remote()] = (actor, item)
        ended, _ = ray.wait(list(running), num_returns=1)
        for reference in ended:
            actor, item = running.pop(reference)
            idle.append(actor)
            frontier.commit(item.key)
            observer.on_event(ItemCommitted(item, [item.key], 0.0))
