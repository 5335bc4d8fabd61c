"""One unit of work on a worker: fetch what it needs, run it, commit what it gave.

Order of commits: rewind points as soon as training reaches them, then the cuts, and the training
run's record last. A worker that dies in between leaves the run uncommitted; done again, it commits
the same content under the same keys.
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

import numpy as np
from numpy.typing import NDArray

from orchestrator.cost.checkpointing import Pace
from orchestrator.credentials import redacted
from orchestrator.errors import Conflict, Damaged, StoreError
from orchestrator.plan.graph import Trial, describe
from orchestrator.plan.keys import to_json
from orchestrator.store.leases import Claims
from orchestrator.store.record import Record, TicketRef, WeightsRef
from orchestrator.store.s3 import S3Objects
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TicketStore
from orchestrator.worker.environment import environment
from orchestrator.worker.inputs import Supplies, digest
from orchestrator.worker.log import TrialLog
from orchestrator.worker.protocol import Context, Done, Listen, Work
from orchestrator.worker.stall_watch import StallWatch
from trainables import run as trainable
from trainables import run_group as group
from trainables.errors import CheckpointError, Stopped
from trainables.spec import CutSpec, RewindSpec, TrainSpec
from trainables.training.sink import Turn

if TYPE_CHECKING:
    from orchestrator.tracking import LiveRun

log = logging.getLogger(__name__)

Masks = Mapping[str, NDArray[np.bool_]]

LAST_WORDS_S = 2.0
"""How long a finished trial waits for its live curve to be sent."""


class TrialWorker:
    """Runs units one after another in one warm process."""

    def __init__(self, context: Context, listen: Listen) -> None:
        self.context = context
        self.listen = listen
        self.store = TicketStore(S3Objects(context.store))
        self._claims = Claims(self.store.objects, context.run)
        self._supplies = Supplies(self.store, context)

    def perform(self, work: Work) -> Done:
        """Run a unit and commit it, unless another run is at it. What someone else committed
        meanwhile is left as it is.

        Raises trainables.errors.TrainableError, or a StoreError.
        """
        with self._claims.held(work.head.key) as ours:
            if not ours:
                return Done(ended="elsewhere")
            missing = [trial for trial in work.members if not self.store.has(trial.key)]
            done = Done([t.key for t in work.members if t not in missing])
            if missing:
                self._attempt(work.head, missing, done)
            return done

    def _attempt(self, head: Trial, missing: list[Trial], done: Done) -> None:
        """Under a stall watch and with a log, which are both about this one attempt."""
        log = TrialLog(describe(head), before=self.store.log(head.key))

        def stalled(error: str, stacks: str) -> None:
            log.say(f"{error}\n{stacks}")
            self._note_failure(head, error, log)

        try:
            with log, StallWatch(self.context.stall_s, stalled) as watch:
                if isinstance(head.spec, TrainSpec):
                    self._train(head, head.spec, missing, done, (log, watch))
                else:
                    assert isinstance(head.spec, CutSpec)
                    self._cut(head, head.spec, done)
        except Stopped:
            done.ended = "stopped"
        except Exception as error:
            self._note_failure(head, str(error), log)
            raise
        self.keep_log(head, log)

    def _train(
        self,
        head: Trial,
        spec: TrainSpec,
        missing: list[Trial],
        done: Done,
        attempt: tuple[TrialLog, StallWatch],
    ) -> None:
        riders = {trial.key: trial for trial in missing if trial is not head}
        cuts = {k: t.spec for k, t in riders.items() if isinstance(t.spec, CutSpec)}
        rewinds = {t.spec.step: k for k, t in riders.items() if isinstance(t.spec, RewindSpec)}
        replay = head not in missing
        with self._live(head) as live:
            run = partial(
                self._launcher(),
                spec,
                sink=_Sink(self, head, riders, rewinds, done, *attempt, self._pace(), live),
                cuts=cuts,
                rewinds=set(rewinds),
                until=max(rewinds) if replay and not cuts else None,
            )
            outcome = self._resumed(run, head.key, self._supplies.of_run(spec))
        if replay:
            if cuts:
                self._check_replay(head, outcome.checks)
        else:
            worn = self.store.record(spec.ticket).ticket if spec.ticket else None
            done.score = outcome.scores["score"]
            self._commit(
                head,
                done,
                ticket=worn,
                scores=outcome.scores,
                history=outcome.history,
                checks=outcome.checks,
                costs=outcome.costs,
                gpu=outcome.gpu,
            )
        self.store.drop_checkpoint(head.key)

    def _resumed(
        self,
        run: Callable[[trainable.Inputs], trainable.Outcome],
        key: str,
        inputs: trainable.Inputs,
    ) -> trainable.Outcome:
        """Go on from the checkpoint of an attempt that was cut short; from the start if that
        checkpoint cannot be used."""
        try:
            checkpoint = self.store.checkpoint(key)
            if checkpoint is not None:
                return run(replace(inputs, checkpoint=checkpoint))
        except (CheckpointError, Damaged) as error:
            log.warning("trial %s starts over: %s", key[:12], error)
            self.store.drop_checkpoint(key)
        return run(inputs)

    def _launcher(self) -> Callable[..., trainable.Outcome]:
        """What runs the training: this process, some of this machine, or some of several."""
        context = self.context
        if context.nodes == 1:
            return partial(group.run, workers=context.workers)
        from orchestrator.worker import multi_node as spanning

        span = spanning.Span(workers=context.workers, nodes=context.nodes, gpus=context.gpus)
        return partial(spanning.run, span=span)

    @contextmanager
    def _live(self, head: Trial) -> Iterator[LiveRun | None]:
        """Live curves, where somebody may look at them; MLflow is imported only then."""
        if not self.context.tracking:
            yield None
            return
        from orchestrator.tracking import LiveRun

        live = LiveRun(self.context.tracking, self.context.sweep, head.key, describe(head))
        try:
            yield live
        finally:
            live.close(timeout=LAST_WORDS_S)

    def _cut(self, head: Trial, spec: CutSpec, done: Done) -> None:
        begin = time.perf_counter()
        masks = trainable.cut(spec, self._supplies.of_cut(spec))
        seconds = time.perf_counter() - begin
        self.commit_cut(head, spec, masks, done, {"seconds": seconds})

    def commit_cut(
        self, trial: Trial, spec: CutSpec, masks: Masks, done: Done, costs: dict[str, float]
    ) -> None:
        ticket = Ticket.from_masks(
            masks, scheme=spec.model.architecture, model_sha256=digest(spec.model), pool=spec.pool
        )
        self._commit(trial, done, ticket=self.store.put_ticket(ticket), costs=costs)

    def commit_rewind(self, trial: Trial, run: str, step: int, payload: bytes, done: Done) -> None:
        self._commit(trial, done, weights=self.store.put_weights(run, step, payload))

    def _commit(
        self,
        trial: Trial,
        done: Done,
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
                about={
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
                environment=environment(self.context.device)
                | {"threads": str(self.context.threads), "workers": str(self.context.workers)}
                | ({"device": gpu} if gpu else {}),
                created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
        )
        done.committed.append(trial.key)

    def _pace(self) -> Pace:
        return Pace(self.context.checkpoint_every_s, self.context.lost_every_s)

    def _note_failure(self, trial: Trial, error: str, log: TrialLog) -> None:
        """Leave word of a failed attempt in the store, as far as the store can be reached."""
        with suppress(StoreError):
            note = {"trial": describe(trial), "error": redacted(error)} | log.failure()
            self.store.note_failure(trial.key, note)
        self.keep_log(trial, log)

    def keep_log(self, trial: Trial, log: TrialLog) -> None:
        with suppress(StoreError):
            self.store.put_log(trial.key, log.text())

    def _check_replay(self, head: Trial, checks: Mapping[str, str | int]) -> None:
        before = self.store.record(head.key).checks["final_sha256"]
        if checks["final_sha256"] != before:
            raise Conflict(
                f"trial {head.key[:12]}: its replay ended in other weights than the committed run;"
                " replay on the kind of machine, with the number of workers and the versions of"
                " libraries that its record names"
            )


@dataclass(slots=True)
class _Sink:
    """Takes what a training run gives on its way, and commits it."""

    worker: TrialWorker
    head: Trial
    riders: Mapping[str, Trial]
    rewinds: Mapping[int, str]
    done: Done
    log: TrialLog
    watch: StallWatch
    pace: Pace
    live: LiveRun | None

    def rewind(self, step: int, payload: bytes) -> None:
        key = self.rewinds[step]
        self.worker.commit_rewind(self.riders[key], self.head.key, step, payload, self.done)

    def cut(self, key: str, masks: Masks) -> None:
        trial = self.riders[key]
        assert isinstance(trial.spec, CutSpec)
        self.worker.commit_cut(trial, trial.spec, masks, self.done, {})

    def checkpoint(self, payload: bytes) -> None:
        self.worker.store.put_checkpoint(self.head.key, payload)
        self.pace.saved()
        self.log.say(f"checkpoint of {len(payload) / 1e6:.1f} MB")
        self.worker.keep_log(self.head, self.log)

    def alive(self) -> None:
        self.watch.alive()

    def turn(self, step: int) -> Turn:
        self.watch.step()
        if self.worker.listen() == "stop":
            return "stop"
        return "save" if self.pace.due() else "go on"

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.log.say(f"step {step}: " + ", ".join(f"{k} {v:.5g}" for k, v in values.items()))
        if self.live is not None:
            self.live.log(step, values)
