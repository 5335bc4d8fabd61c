"""The sink: receives what a run produces while it runs. The run itself has no access to a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from trainables.tickets.base import Ticket

Action: TypeAlias = Literal["continue", "save", "stop"]


class Sink(Protocol):
    """Receiver of a run's results. The first three calls return once the result is saved, so that
    a run that is killed later does not have to repeat it."""

    def rewind(self, step: int, payload: bytes) -> None:
        """Save the weights after `step` optimizer steps, and the task's state: `backbone.*` and
        `head.*` as float32 safetensors, and `task.*`."""

    def ticket(self, key: str, ticket: Ticket) -> None:
        """Save the ticket of the prune trial `key`."""

    def checkpoint(self, payload: bytes) -> None:
        """Save the state to resume from, replacing the previous one."""

    def next_action(self, step: int) -> Action:
        """Return whether the run should continue, save a checkpoint, or save one and raise
        `Stopped`.

        It is called after every step and must return at once. A run that has finished its last step
        ignores the answer.
        """

    def heartbeat(self) -> None:
        """Report that work between two steps, which may take long, is progressing. It must return
        at once."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Report a point of the history: `loss` and `lr`, or `score`, or all three."""
