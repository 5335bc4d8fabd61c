"""One unit of work on a worker: fetch what it needs, run it, commit what it gave.

Order of commits: rewind points as soon as training reaches them, then the cuts, and the training
run's record last. A worker that dies in between leaves the run uncommitted; done again, it commits
the same content under the same keys.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import Conflict, StoreError
from orchestrator.identity import to_json
from orchestrator.plan import Trial
from orchestrator.preview import describe
from orchestrator.store.objects import S3Objects
from orchestrator.store.record import Record, TicketRef, WeightsRef
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TicketStore
from orchestrator.supplies import Supplies, digest
from orchestrator.work import Context, Done, Work
from trainables import run as trainable
from trainables.errors import CheckpointError
from trainables.spec import CutSpec, RewindSpec, TrainSpec

if TYPE_CHECKING:
    from orchestrator.tracking import LiveRun

log = logging.getLogger(__name__)

Masks = Mapping[str, NDArray[np.bool_]]

LAST_WORDS_S = 2.0
"""How long a finished trial waits for its live curve to be sent."""


class TrialWorker:
    """Runs units one after another in one warm process."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = TicketStore(S3Objects(context.store))
        self._supplies = Supplies(self.store, context)

    def perform(self, work: Work) -> Done:
        """Run a unit and commit it. What someone else committed meanwhile is left as it is.

        Raises trainables.errors.TrainableError, or a StoreError.
        """
        missing = [trial for trial in work.members if not self.store.has(trial.key)]
        done = Done([t.key for t in work.members if t not in missing])
        if missing:
            spec = work.head.spec
            if isinstance(spec, TrainSpec):
                self._train(work.head, spec, missing, done)
            else:
                assert isinstance(spec, CutSpec)
                self._cut(work.head, spec, done)
        return done

    def _train(self, head: Trial, spec: TrainSpec, missing: list[Trial], done: Done) -> None:
        riders = {trial.key: trial for trial in missing if trial is not head}
        cuts = {k: t.spec for k, t in riders.items() if isinstance(t.spec, CutSpec)}
        rewinds = {t.spec.step: k for k, t in riders.items() if isinstance(t.spec, RewindSpec)}
        replay = head not in missing
        with self._live(head) as live:
            run = partial(
                trainable.run,
                spec,
                sink=_Sink(self, head, riders, rewinds, done, live),
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
            self._commit(
                head,
                done,
                ticket=worn,
                scores=outcome.scores,
                history=outcome.history,
                checks=outcome.checks,
                costs=outcome.costs,
            )
            done.score = outcome.scores["score"]
        self.store.drop_checkpoint(head.key)

    def _resumed(
        self,
        run: Callable[[trainable.Inputs], trainable.Outcome],
        key: str,
        inputs: trainable.Inputs,
    ) -> trainable.Outcome:
        """Go on from the checkpoint of an attempt that was cut short; from the start if that
        checkpoint cannot be used."""
        checkpoint = self.store.checkpoint(key)
        if checkpoint is not None:
            try:
                return run(replace(inputs, checkpoint=checkpoint))
            except CheckpointError as error:
                log.warning("trial %s starts over: %s", key[:12], error)
                self.store.drop_checkpoint(key)
        return run(inputs)

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
    ) -> None:
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
                costs=dict(costs or {}) | ({"gpus": self.context.gpus} if scores else {}),
                environment=environment(self.context.device)
                | {"threads": str(self.context.threads)},
                created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
        )
        done.committed.append(trial.key)

    def note_failure(self, trial: Trial, error: str) -> None:
        """Leave word of a failed attempt in the store, as far as the store can be reached."""
        with suppress(StoreError):
            self.store.note_failure(trial.key, {"trial": describe(trial), "error": error})

    def _check_replay(self, head: Trial, checks: Mapping[str, str | int]) -> None:
        before = self.store.record(head.key).checks["final_sha256"]
        if checks["final_sha256"] != before:
            raise Conflict(
                f"trial {head.key[:12]}: its replay ended in other weights than the committed run;"
                " replay on the kind of machine and the library versions named in its record"
            )


@dataclass(slots=True)
class _Sink:
    """Takes what a training run gives on its way, and commits it."""

    worker: TrialWorker
    head: Trial
    riders: Mapping[str, Trial]
    rewinds: Mapping[int, str]
    done: Done
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

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        if self.live is not None:
            self.live.log(step, values)


@cache
def environment(device: str) -> dict[str, str]:
    """What a result may depend on beyond its key: library versions and hardware."""
    libraries = ("torch", "deepspeed", "transformers", "numpy", "ray")
    found = {name: version(name) for name in libraries}
    found["python"] = platform.python_version()
    found["machine"] = f"{platform.system()} {platform.machine()}"
    if device == "cuda":
        import torch

        found["device"] = torch.cuda.get_device_name()
    else:
        found["device"] = _cpu_name()
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "cpu")
