"""Trials per second, and processes started, for trials that do nothing.

The same DAG (chains of 10, leaves that each hang on some level of a chain) is run by the driver, by
stock Ray Tune with one Tune trial per node (a searcher that answers None until the parents are
done, `reuse_actors=True`), and by a bare pool of Ray actors that a loop feeds. A trial sleeps 3 ms.
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
from orchestrator.schedule.frontier import Frontier, Unit
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Done, Listen, Work
from tests.benchmarks.table import Row
from trainables.spec import ModelSpec, Recipe, TaskSpec, TrainSpec

SLOTS = 4
BODY_S = 0.003
SPEC = TrainSpec(
    model=ModelSpec(architecture="uniter"),
    task=TaskSpec(name="easy_vqa", data="0" * 64),
    recipe=Recipe(steps=2),
)


def dag(chains: int, leaves: int, *, levels: int = 10) -> Plan:
    """`chains` chains of `levels` and `leaves` leaves, each on some level of a random chain."""
    trials: dict[str, Trial] = {}

    def add(key: str, parents: tuple[str, ...]) -> None:
        trials[key] = Trial(key=key, kind="train", spec=SPEC, parents=parents, model="m", task="t")

    for chain in range(chains):
        for level in range(levels):
            add(f"c{chain}-{level}", (f"c{chain}-{level - 1}",) if level else ())
    chance = random.Random(0)
    for leaf in range(leaves):
        add(f"l{leaf}", (f"c{chance.randrange(chains)}-{chance.randrange(levels)}",))
    return Plan("benchmark", trials)


def run() -> Iterator[Row]:
    """At 200 and 2,100 trials, on 4 slots whatever the machine's cores."""
    for chains, leaves in ((6, 140), (60, 1500)):
        plan = dag(chains, leaves)
        ours = measure(partial(lanes, placement=Placement(slots=SLOTS)), plan, SLOTS)
        pool = measure(_pool, plan, SLOTS)
        others = measure(partial(stock, slots=SLOTS), plan, SLOTS)
        for name, (seconds, starts), limit in (
            ("stock Ray Tune, one trial per node", others, "≥ 1"),
            ("a bare Ray actor pool", pool, ""),
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


class Blind:
    """An Observer that looks at nothing."""

    def started(self, lane: list[Unit]) -> None: ...
    def begun(self, unit: Unit) -> None: ...
    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None: ...
    def failed(self, unit: Unit) -> None: ...
    def ended(self, lane: list[Unit]) -> None: ...


BLIND = Blind()


def measure(
    runner: Runner, plan: Plan, slots: int, observer: Observer = BLIND
) -> tuple[float, int]:
    """Wall seconds including the start of the actors, and the number of actors started."""
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


def _note_start(folder: Path) -> None:
    (folder / "starts").mkdir(exist_ok=True)
    (folder / "starts" / f"{os.getpid()}-{time.monotonic_ns()}").touch()


class Idle:
    """A worker that commits everything without doing anything."""

    def __init__(self, folder: Path, listen: Listen) -> None:
        _note_start(folder)

    def perform(self, work: Work) -> Done:
        time.sleep(BODY_S)
        return Done([trial.key for trial in work.members], 0.0)


def lanes(plan: Plan, folder: Path, observer: Observer, *, placement: Placement) -> None:
    summary = driver.run(plan, set(), partial(Idle, folder), placement, observer)
    assert summary.finished == len(plan), summary


class Node(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        _note_start(Path(config["folder"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(BODY_S)
        return {"score": 0.0, "done": True}


class NodeSearcher(Searcher):
    """One Tune trial per node."""

    def __init__(self, plan: Plan, folder: Path, observer: Observer) -> None:
        super().__init__(metric="score", mode="max")
        self.observer = observer
        self.frontier = Frontier(plan)
        self.folder = folder
        self.running: dict[str, Unit] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        unit = self.frontier.peek()
        if unit is None:
            return Searcher.FINISHED if self.frontier.settled else None
        self.frontier.start([unit])
        self.running[trial_id] = unit
        return {"node": unit.head, "folder": str(self.folder)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        assert not error
        unit = self.running.pop(trial_id)
        self.frontier.commit(unit.head)
        self.observer.committed(unit, [unit.head], 0.0)


def stock(plan: Plan, folder: Path, observer: Observer, *, slots: int) -> None:
    searcher = NodeSearcher(plan, folder, observer)
    Tuner(
        tune.with_resources(Node, {"cpu": 1}),
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
        _note_start(folder)

    def work(self) -> None:
        time.sleep(BODY_S)


def _pool(plan: Plan, folder: Path, observer: Observer) -> None:
    frontier = Frontier(plan)
    idle = [PoolActor.remote(folder) for _ in range(SLOTS)]  # type: ignore[attr-defined]
    running: dict[Any, tuple[Any, Unit]] = {}
    while not frontier.settled:
        while idle and (unit := frontier.peek()) is not None:
            frontier.start([unit])
            actor = idle.pop()
            running[actor.work.remote()] = (actor, unit)
        ended, _ = ray.wait(list(running), num_returns=1)
        for reference in ended:
            actor, unit = running.pop(reference)
            idle.append(actor)
            frontier.commit(unit.head)
            observer.committed(unit, [unit.head], 0.0)
