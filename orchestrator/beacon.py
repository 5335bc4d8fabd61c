"""How the driver's word reaches every worker while it is busy: to go on, to drain, or to stop.

One small actor on the driver's machine holds the word; each worker has one call waiting there on a
thread of its own, so that a change reaches thousands of them at once and nobody polls.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.actors import local_actor
from orchestrator.work import Word

MOST_LISTENERS = 10_000
"""Calls that may wait in the actor; one per worker."""


class _Beacon:
    def __init__(self) -> None:
        self._word: Word = "go"
        self._changed = asyncio.Event()

    async def say(self, word: Word) -> None:
        self._word = word
        self._changed.set()
        self._changed = asyncio.Event()

    async def heed(self, known: Word) -> Word:
        """The word, as soon as it is another than `known`."""
        while self._word == known:
            await self._changed.wait()
        return self._word


class Beacon:
    """The driver's end. Needs an initialized Ray; ends with its job."""

    def __init__(self) -> None:
        self.actor = local_actor(_Beacon, calls=MOST_LISTENERS)

    def say(self, word: Word) -> None:
        """Returns at once; workers hear it within milliseconds."""
        self.actor.say.remote(word)


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
