"""The worker's side of a session: a Tune trainable that runs chunks, one work item per step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import ray
from ray import tune
from ray.exceptions import RayError

from orchestrator.errors import MachineLost, StoreFull, StoreUnreachable, SweepstakesError
from orchestrator.schedule.events import ItemResult
from orchestrator.schedule.failures import repeats
from orchestrator.tune.channel import CommandPoller
from orchestrator.tune.searcher import RESULT, SESSION
from orchestrator.tune.work_table import WorkTable
from orchestrator.worker.protocol import Poll, Worker
from trainables.errors import TrainableError, describe_error

log = logging.getLogger(__name__)

StartWorker: TypeAlias = Callable[[Poll], Worker]
"""Create the worker of a process; the worker may call `Poll` at any time."""


class WorkerLoop(tune.Trainable):
    """A session: one Tune trial, which lasts until an empty chunk ends it. Each `step` runs one
    work item. The process may go on to serve another session."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, work_table: WorkTable, start: StartWorker, channel: Any
    ) -> None:
        self._work_table = work_table
        self._channel = channel
        self._poll = CommandPoller(channel)
        self._broken = False
        try:
            self._worker = start(self._poll)
        except BaseException:
            self._poll.close()
            raise
        self.reset_config(config)

    def cleanup(self) -> None:
        self._poll.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._session = str(new_config[SESSION])
        self._number = 0
        self._chunk: list[str] = []
        return True

    def step(self) -> dict[str, Any]:
        """Run one item. Unless it is complete the chunk ends, since later items may need it."""
        result = self._run_item()
        self._broken = self._broken or result.broken
        if result.end != "complete":
            self._chunk = []
        return {RESULT: result, "done": result.last}

    def _run_item(self) -> ItemResult:
        try:
            self._await_chunk()
        except RayError as error:
            text = f"the driver does not answer: {str(error).splitlines()[0]}"
            return ItemResult(end="outage", error=text, last=True)
        if not self._chunk:
            if self._broken:  # Ray Tune does not reuse a process that has raised
                raise RuntimeError("this process is replaced after an unexpected error")
            return ItemResult(end="idle", last=True)
        key = self._chunk.pop(0)
        if self._poll() != "continue":
            return ItemResult(key=key, end="stopped", last=True)
        try:
            done = self._worker.perform(self._work_table[key])
        except MachineLost as error:
            return ItemResult(key=key, end="lost", error=str(error))
        except (StoreUnreachable, StoreFull) as error:  # not a failure of the item
            return ItemResult(key=key, end="outage", error=str(error), last=True)
        except (TrainableError, SweepstakesError) as error:
            return ItemResult(key=key, end="error", error=str(error), repeats=repeats(error))
        except Exception as error:
            # A bug, ours or a library's, or a device that no longer responds. It counts as a
            # failure of the item, and the process is replaced, so that no other item is affected.
            log.exception("trial %s failed", key)
            text = describe_error(error)
            again = repeats(error)
            return ItemResult(key=key, end="error", error=text, repeats=again, broken=True)
        return ItemResult(
            key=key,
            end=done.end,
            committed=done.committed,
            score=done.score,
            last=done.end == "stopped",
        )

    def _await_chunk(self) -> None:
        """Once the chunk is done, wait for the next one; an empty one ends the session."""
        if not self._chunk:
            call = self._channel.next_assignment.remote(self._session, self._number)
            self._number, self._chunk = ray.get(call)
