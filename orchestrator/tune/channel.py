"""The driver's channel to its workers: one command for all of them, and chunks for each session.

The command tells running workers to go on, to drain or to stop. One small actor on the driver's
machine holds the command and the chunks. Each worker keeps one call for either waiting in it, so
that a change reaches thousands of workers at once without periodic requests.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.ray_cluster.actors import local_actor
from orchestrator.schedule.commands import WorkerCommand

MAX_PENDING_CALLS = 20_000
"""Calls that may wait in the actor; each worker has two."""


class _ChannelActor:
    def __init__(self) -> None:
        self._command: WorkerCommand = "continue"
        self._waiting: dict[str, asyncio.Event] = {}
        self._closed: set[str] = set()
        self._chunks: dict[str, tuple[int, list[str] | None]] = {}
        self._assigned: dict[str, asyncio.Event] = {}

    async def send(self, command: WorkerCommand) -> None:
        self._command = command
        for changed in self._waiting.values():
            changed.set()

    async def next_command(self, poller: str, known: WorkerCommand) -> WorkerCommand:
        """Return the command as soon as it differs from `known` or the poller is closed."""
        changed = self._waiting[poller] = asyncio.Event()
        while self._command == known and poller not in self._closed:
            await changed.wait()
            changed.clear()
        del self._waiting[poller]
        return self._command

    async def close(self, poller: str) -> None:
        """Let the poller's call return, even if it arrives later than this one."""
        self._closed.add(poller)
        if changed := self._waiting.get(poller):
            changed.set()

    async def assign(self, session: str, number: int, keys: list[str] | None) -> None:
        if number > self._chunks.get(session, (0, None))[0]:
            self._chunks[session] = number, keys
            if assigned := self._assigned.pop(session, None):
                assigned.set()

    async def next_assignment(self, session: str, known: int) -> tuple[int, list[str]]:
        """Return the number and the keys of the session's chunk, as soon as its number is above
        `known`. Nothing is removed, because a pending call of a lost worker must not take
        the chunk of its successor."""
        while True:
            number, keys = self._chunks.get(session, (0, None))
            if number > known and keys is not None:
                return number, keys
            await self._assigned.setdefault(session, asyncio.Event()).wait()


class Channel:
    """The driver's end. Needs an initialized Ray, and ends with its job."""

    def __init__(self) -> None:
        self.actor = local_actor(_ChannelActor, max_concurrency=MAX_PENDING_CALLS)
        self._numbers = count(1)

    def send(self, command: WorkerCommand) -> None:
        """Send a command to all workers. Return at once; they receive it within milliseconds."""
        self.actor.send.remote(command)

    def assign(self, session: str, keys: list[str] | None) -> None:
        """Assign a chunk, as keys of work items, to the session's worker. An empty chunk ends the
        session; None withdraws the chunk of a lost worker. Return at once."""
        self.actor.assign.remote(session, next(self._numbers), keys)


class CommandPoller:
    """The worker's end: calling it returns the current command.

    It must be closed. Otherwise its call stays pending, and Ray neither ends an actor that it
    terminates nor notices one that failed to start. The channel is told to answer, because
    `ray.cancel` has no effect on a call that is on its way: under load, a worker that failed at
    once was never noticed.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._name = uuid.uuid4().hex
        self._command: WorkerCommand = "continue"
        self._closed = False
        threading.Thread(target=self._receive, name="command poller", daemon=True).start()

    def __call__(self) -> WorkerCommand:
        return self._command

    def close(self) -> None:
        self._closed = True
        self._channel.close.remote(self._name)

    def _receive(self) -> None:
        try:
            while self._command != "stop" and not self._closed:
                call = self._channel.next_command.remote(self._name, self._command)
                self._command = ray.get(call)
        except RayError:  # the driver is gone, and Ray ends this process as well
            return
