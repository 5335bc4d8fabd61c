"""The worker's side: a Ray Tune trial that does one lane after another, unit by unit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import ray
from ray import tune
from ray.exceptions import RayError

from orchestrator.errors import MachineLost, StoreFull, StoreUnreachable, SweepstakesError
from orchestrator.tune.channel import Listener
from orchestrator.tune.searcher import STINT
from orchestrator.tune.work_table import Handout
from orchestrator.worker.protocol import Listen, Worker
from trainables.errors import TrainableError

log = logging.getLogger(__name__)

Start: TypeAlias = Callable[[Listen], Worker]
"""Makes the worker of a process, which may ask `Listen` at any time."""


class Stint(tune.Trainable):
    """A Tune trial: what a worker does until there is nothing more to do for it, one unit per
    `step`, on a process that may outlive it."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, handout: Handout, start: Start, beacon: Any
    ) -> None:
        self._handout = handout
        self._beacon = beacon
        self._listen = Listener(beacon)
        self._spent = False
        try:
            self._worker = start(self._listen)
        except BaseException:
            self._listen.close()
            raise
        self.reset_config(config)

    def cleanup(self) -> None:
        self._listen.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._stint = str(new_config[STINT])
        self._number = 0
        self._lane: list[str] = []
        return True

    def step(self) -> dict[str, Any]:
        """One unit. Any end but a whole one ends the lane: what follows may need what is not."""
        result: dict[str, Any] = {"head": "", "committed": [], "score": None, "why": ""}
        result |= {"done": False, "spent": False}
        try:
            self._take()
        except RayError as error:
            return result | {
                "end": "outage",
                "why": f"no word of the driver: {str(error).splitlines()[0]}",
                "done": True,
            }
        if not self._lane:
            if self._spent:  # Ray Tune keeps no process that has raised
                raise RuntimeError("after an error that nobody foresaw another process goes on")
            return result | {"end": "idle", "done": True}
        result["head"] = head = self._lane.pop(0)
        if self._listen() != "go":
            return result | {"end": "stopped", "done": True}
        try:
            done = self._worker.perform(self._handout[head])
            result |= {"committed": done.committed, "score": done.score, "end": done.ended}
        except MachineLost as error:
            result |= {"end": "lost", "why": str(error)}
        except (StoreUnreachable, StoreFull) as error:  # no fault of the unit's
            result |= {"end": "outage", "why": str(error)}
        except (TrainableError, SweepstakesError) as error:
            result |= {"end": "error", "why": str(error)}
        except Exception as error:
            # A defect, of ours or of a library, or a device that answers nothing any more: three
            # strikes, then named; whatever it did to this process, no other unit is to suffer.
            why = f"{type(error).__name__}: {error}"
            result |= {"end": "error", "why": why, "spent": True}
            self._spent = True
            log.exception("trial %s failed", head)
        if result["end"] != "whole":
            self._lane = []
        return result | {"done": result["end"] in ("stopped", "outage")}

    def _take(self) -> None:
        """Wait for a lane, if this one is done; without any the stint is to end."""
        if not self._lane:
            taken = ray.get(self._beacon.take.remote(self._stint, self._number))
            self._number, self._lane = taken
