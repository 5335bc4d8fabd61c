"""How the driver reaches its workers: a word to all, while they are busy, to go on, to drain or to
stop; and to each its next lane.

One small actor on the driver's machine holds both. Each worker has a call waiting there for either,
so that a change reaches thousands at once and nobody polls.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.ray_cluster.actors import local_actor
from orchestrator.worker.protocol import Word

MOST_CALLS = 20_000
"""That may wait in the actor; two of each worker."""


class _Beacon:
    def __init__(self) -> None:
        self._word: Word = "go"
        self._changed = asyncio.Event()
        self._lanes: dict[str, tuple[int, list[str] | None]] = {}
        self._handed: dict[str, asyncio.Event] = {}

    async def say(self, word: Word) -> None:
        self._word = word
        self._changed.set()
        self._changed = asyncio.Event()

    async def heed(self, known: Word) -> Word:
        """The word, as soon as it is another than `known`."""
        while self._word == known:
            await self._changed.wait()
        return self._word

    async def hand(self, stint: str, number: int, lane: list[str] | None) -> None:
        if number > self._lanes.get(stint, (0, None))[0]:
            self._lanes[stint] = number, lane
            if waited_for := self._handed.pop(stint, None):
                waited_for.set()

    async def take(self, stint: str, known: int) -> tuple[int, list[str]]:
        """The lane of the stint and its number, as soon as that is another than `known`. Nothing is
        removed: the call of a worker that died while it waited must not take what is another's."""
        while True:
            number, lane = self._lanes.get(stint, (0, None))
            if number > known and lane is not None:
                return number, lane
            await self._handed.setdefault(stint, asyncio.Event()).wait()


class Beacon:
    """The driver's end. Needs an initialized Ray; ends with its job."""

    def __init__(self) -> None:
        self.actor = local_actor(_Beacon, calls=MOST_CALLS)
        self._numbers = count(1)

    def say(self, word: Word) -> None:
        """Returns at once; workers hear it within milliseconds."""
        self.actor.say.remote(word)

    def hand(self, stint: str, lane: list[str] | None) -> None:
        """Give the stint's worker the heads of what it is to do next, none if it is to end; with
        None take back what its last worker had. Returns at once."""
        self.actor.hand.remote(stint, next(self._numbers), lane)


class Listener:
    """A worker's end: called, it says the word as it stands.

    It must be closed: an actor whose call waits elsewhere does not end when it is told to, nor is
    it noticed that one has failed to start.
    """

    def __init__(self, beacon: Any) -> None:
        self._beacon = beacon
        self._word: Word = "go"
        self._call = beacon.heed.remote(self._word)
        threading.Thread(target=self._listen, name="listener", daemon=True).start()

    def __call__(self) -> Word:
        return self._word

    def close(self) -> None:
        ray.cancel(self._call)

    def _listen(self) -> None:
        try:
            while self._word != "stop":
                self._word = ray.get(self._call)
                if self._word != "stop":
                    self._call = self._beacon.heed.remote(self._word)
        except RayError:  # closed; or the driver is gone, and Ray ends this process for it
            return
