"""Run one work item on a worker: fetch its inputs, train or prune, commit the results.

Order of commits: rewind points as soon as training reaches them, then the tickets, and the training
run's record last. If the worker fails in between, the run is not committed; when it is
repeated, it commits the same content under the same keys.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cost.checkpointing import CheckpointTimer
from orchestrator.credentials import redact_secrets
from orchestrator.errors import Conflict, Damaged, StoreError
from orchestrator.plan.graph import Trial, describe_trial
from orchestrator.plan.keys import to_json
from orchestrator.store.leases import Leases
from orchestrator.store.record import Record, TicketRef, WeightsRef
from orchestrator.store.s3 import S3ObjectStore
from orchestrator.store.ticket import Ticket as StoredTicket
from orchestrator.store.tickets import TrialStore
from orchestrator.worker.environment import collect_environment
from orchestrator.worker.inputs import TrialInputs, model_digest
from orchestrator.worker.log import TrialLog
from orchestrator.worker.protocol import Assignment, Context, Poll, WorkResult
from orchestrator.worker.stall_watch import StallWatchdog
from trainables import run_group
from trainables.errors import CheckpointError, Stopped
from trainables.run import RunInputs, RunOutcome, prune
from trainables.spec import PruneSpec, RewindSpec, TrainSpec
from trainables.tickets.base import Ticket
from trainables.training.sink import Action
from trainables.user_modules import install

if TYPE_CHECKING:
    from orchestrator.tracking import LiveRun

log = logging.getLogger(__name__)

LIVE_FLUSH_S = 2.0
"""How long a finished trial waits for its live curve to be sent."""


class TrialWorker:
    """Runs work items one after another in one warm process."""

    def __init__(self, context: Context, poll: Poll) -> None:
        self.context = context
        self.poll = poll
        self.store = TrialStore(S3ObjectStore(context.store))
        self._leases = Leases(self.store.objects, context.run)
        self._inputs = TrialInputs(self.store, context)

    def perform(self, assignment: Assignment) -> WorkResult:
        """Run and commit a work item, unless another run holds its lease. Members that another run
        committed in the meantime are left unchanged.

        Raises trainables.errors.TrainableError, or a StoreError.
        """
        with self._leases.acquire(assignment.trial.key) as acquired:
            if not acquired:
                return WorkResult(end="leased")
            members = assignment.members
            missing = [trial for trial in members if not self.store.has(trial.key)]
            result = WorkResult([trial.key for trial in members if trial not in missing])
            if assignment.trial.key in result.committed:  # by another run, in the meantime
                result.score = self.store.record(assignment.trial.key).scores.get("score")
            if missing:
                self._attempt(assignment.trial, missing, result)
            return result

    def _attempt(self, trial: Trial, missing: list[Trial], result: WorkResult) -> None:
        """Run one attempt, with a log and a stall watchdog of its own."""
        log = TrialLog(describe_trial(trial), previous=self.store.log(trial.key))

        def on_stall(error: str, stacks: str) -> None:
            log.add(f"{error}\n{stacks}")
            self._save_failure(trial, error, log)

        try:
            with log, StallWatchdog(self.context.stall_timeout_s, on_stall) as watchdog:
                install(self.context.modules)  # the inputs may be of a scheme or kind from a file
                if isinstance(trial.spec, TrainSpec):
                    self._train(trial, trial.spec, missing, result, (log, watchdog))
                else:
                    assert isinstance(trial.spec, PruneSpec)
                    self._prune(trial, trial.spec, result)
        except Stopped:
            result.end = "stopped"
        except Exception as error:
            self._save_failure(trial, str(error), log)
            raise
        self.save_log(trial, log)

    def _train(
        self,
        trial: Trial,
        spec: TrainSpec,
        missing: list[Trial],
        result: WorkResult,
        attempt: tuple[TrialLog, StallWatchdog],
    ) -> None:
        by_products = {t.key: t for t in missing if t is not trial}
        prunes = {k: t.spec for k, t in by_products.items() if isinstance(t.spec, PruneSpec)}
        rewinds = {t.spec.step: k for k, t in by_products.items() if isinstance(t.spec, RewindSpec)}
        replay = trial not in missing
        with self._live_run(trial) as live:
            timer = CheckpointTimer(self.context.checkpoint_every_s, self.context.mtbf_s)
            run = partial(
                self._run_function(),
                spec,
                sink=TrialSink(self, trial, by_products, rewinds, result, *attempt, timer, live),
                prunes=prunes,
                rewinds=set(rewinds),
                until=max(rewinds) if replay and not prunes else None,
            )
            outcome = self._resume_or_run(run, trial.key, self._inputs.for_training(spec))
        if replay:
            if prunes:
                self._check_replay(trial, outcome.checks)
        else:
            applied = self.store.record(spec.ticket).ticket if spec.ticket else None
            result.score = outcome.scores["score"]
            self._commit(
                trial,
                result,
                ticket=applied,
                scores=outcome.scores,
                history=outcome.history,
                checks=outcome.checks,
                costs=outcome.costs,
                gpu=outcome.gpu,
            )
        self.store.delete_checkpoint(trial.key)

    def _resume_or_run(
        self, run: Callable[[RunInputs], RunOutcome], key: str, inputs: RunInputs
    ) -> RunOutcome:
        """Resume from the checkpoint of an interrupted attempt; start from the beginning if there
        is none or it is unusable."""
        try:
            checkpoint = self.store.checkpoint(key)
            if checkpoint is not None:
                return run(replace(inputs, checkpoint=checkpoint))
        except (CheckpointError, Damaged) as error:
            log.warning("trial %s restarts from the beginning: %s", key[:12], error)
            self.store.delete_checkpoint(key)
        return run(inputs)

    def _run_function(self) -> Callable[..., RunOutcome]:
        """Return the function that runs the training: on this machine, or on several."""
        context = self.context
        if context.nodes == 1:
            return partial(run_group.run, workers=context.workers)
        from orchestrator.worker import multi_node

        topology = multi_node.Topology(
            workers=context.workers, nodes=context.nodes, gpus=context.gpus
        )
        return partial(multi_node.run, topology=topology)

    @contextmanager
    def _live_run(self, trial: Trial) -> Iterator[LiveRun | None]:
        """Send live curves if a tracking server is configured; MLflow is imported only then."""
        if not self.context.tracking:
            yield None
            return
        from orchestrator.tracking import LiveRun

        name = describe_trial(trial)
        live = LiveRun(self.context.tracking, self.context.sweep, trial.key, name)
        try:
            yield live
        finally:
            live.close(timeout=LIVE_FLUSH_S)

    def _prune(self, trial: Trial, spec: PruneSpec, result: WorkResult) -> None:
        begin = time.perf_counter()
        ticket = prune(spec, self._inputs.for_pruning(spec))
        seconds = time.perf_counter() - begin
        self.commit_ticket(trial, spec, ticket, result, {"seconds": seconds})

    def commit_ticket(
        self,
        trial: Trial,
        spec: PruneSpec,
        ticket: Ticket,
        result: WorkResult,
        costs: dict[str, float],
    ) -> None:
        stored = StoredTicket.from_arrays(
            ticket.arrays,
            architecture=spec.model.architecture,
            model_sha256=model_digest(spec.model),
            pool=spec.pool,
            kind=ticket.kind,
            scores=ticket.scores,
        )
        self._commit(trial, result, ticket=self.store.put_ticket(stored), costs=costs)

    def commit_rewind(
        self, trial: Trial, run: str, step: int, payload: bytes, result: WorkResult
    ) -> None:
        self._commit(trial, result, weights=self.store.put_weights(run, step, payload))

    def _commit(
        self,
        trial: Trial,
        result: WorkResult,
        *,
        ticket: TicketRef | None = None,
        weights: WeightsRef | None = None,
        scores: Mapping[str, float] | None = None,
        history: tuple[dict[str, float], ...] = (),
        checks: Mapping[str, str | int] | None = None,
        costs: Mapping[str, float] | None = None,
        gpu: str = "",
    ) -> None:
        gpus = self.context.gpus * self.context.workers
        self.store.commit(
            Record(
                key=trial.key,
                kind=trial.kind,
                spec=to_json(trial.spec),
                labels={
                    "sweep": self.context.sweep,
                    "model": trial.model,
                    "task": trial.task,
                    "level": trial.level,
                },
                parents=trial.parents,
                ticket=ticket,
                weights=weights,
                scores=dict(scores or {}),
                history=history,
                checks=dict(checks or {}),
                costs=dict(costs or {}) | ({"gpus": gpus} if scores else {}),
                environment=collect_environment(self.context.device)
                | {"threads": str(self.context.threads), "workers": str(self.context.workers)}
                | ({"device": gpu} if gpu else {}),
                created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
        )
        result.committed.append(trial.key)

    def _save_failure(self, trial: Trial, error: str, log: TrialLog) -> None:
        """Store a note of a failed attempt and its log, if the store is reachable."""
        with suppress(StoreError):
            note = {"trial": describe_trial(trial), "error": redact_secrets(error)}
            self.store.put_failure(trial.key, note | log.failure_note())
        self.save_log(trial, log)

    def save_log(self, trial: Trial, log: TrialLog) -> None:
        with suppress(StoreError):
            self.store.put_log(trial.key, log.text())

    def _check_replay(self, trial: Trial, checks: Mapping[str, str | int]) -> None:
        committed = self.store.record(trial.key).checks["final_sha256"]
        if checks["final_sha256"] != committed:
            raise Conflict(
                f"trial {trial.key[:12]}: its replay ended with other weights than the committed"
                " run; replay it on the kind of machine, with the number of workers and the library"
                " versions that its record lists"
            )


@dataclass(slots=True)
class TrialSink:
    """Receives what a training run produces while it runs, and commits it."""

    worker: TrialWorker
    trial: Trial
    by_products: Mapping[str, Trial]
    rewinds: Mapping[int, str]
    """Optimizer step -> key of its rewind point."""
    result: WorkResult
    log: TrialLog
    watchdog: StallWatchdog
    timer: CheckpointTimer
    live: LiveRun | None

    def rewind(self, step: int, payload: bytes) -> None:
        rewind_point = self.by_products[self.rewinds[step]]
        self.worker.commit_rewind(rewind_point, self.trial.key, step, payload, self.result)

    def ticket(self, key: str, ticket: Ticket) -> None:
        trial = self.by_products[key]
        assert isinstance(trial.spec, PruneSpec)
        self.worker.commit_ticket(trial, trial.spec, ticket, self.result, {})

    def checkpoint(self, payload: bytes) -> None:
        self.worker.store.put_checkpoint(self.trial.key, payload)
        self.timer.saved()
        self.log.add(f"saved a checkpoint of {len(payload) / 1e6:.1f} MB")
        self.worker.save_log(self.trial, self.log)

    def heartbeat(self) -> None:
        self.watchdog.heartbeat()

    def next_action(self, step: int) -> Action:
        self.watchdog.step()
        if self.worker.poll() == "stop":
            return "stop"
        return "save" if self.timer.due() else "continue"

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.log.add(f"step {step}: " + ", ".join(f"{k} {v:.5g}" for k, v in values.items()))
        if self.live is not None:
            self.live.log(step, values)
