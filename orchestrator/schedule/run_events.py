"""Run events: what the scheduler tells observers about work items. They follow its decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.schedule.frontier import WorkItem


@dataclass(frozen=True, slots=True)
class ChunkStarted:
    """A chunk is assigned to the worker of a session."""

    session: str
    items: Sequence[WorkItem]


@dataclass(frozen=True, slots=True)
class ChunkEnded:
    """The chunk's worker is free, or gone. Some of its items may not have run."""

    session: str
    items: Sequence[WorkItem]


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """A worker starts the item: the first of its chunk, or the next after a commit."""

    session: str
    item: WorkItem


@dataclass(frozen=True, slots=True)
class ItemCommitted:
    """The item is in the store."""

    item: WorkItem
    keys: Sequence[str]
    """Keys of its trials that were committed now."""
    score: float | None
    session: str = ""
    """Empty if another run has committed it."""


@dataclass(frozen=True, slots=True)
class ItemRetried:
    """An attempt at the item failed, and the item waits for the next one."""

    item: WorkItem
    error: str


@dataclass(frozen=True, slots=True)
class ItemRequeued:
    """An attempt at the item ended early, which is no failure; the item waits for the next one."""

    item: WorkItem
    cause: str


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """The item is given up; `item.error` is the last error."""

    item: WorkItem
    blocked: Sequence[WorkItem] = ()
    """Items that cannot run now, since they depend on it."""


@dataclass(frozen=True, slots=True)
class ItemDeferred:
    """Another run holds the lease of the item."""

    item: WorkItem


@dataclass(frozen=True, slots=True)
class ItemsSkipped:
    """The strategy does not want these items with the results so far."""

    items: Sequence[WorkItem]


@dataclass(frozen=True, slots=True)
class ItemsWanted:
    """The strategy wants these items, which were skipped so far."""

    items: Sequence[WorkItem]


RunEvent: TypeAlias = (
    ChunkStarted
    | ChunkEnded
    | ItemStarted
    | ItemCommitted
    | ItemRetried
    | ItemRequeued
    | ItemFailed
    | ItemDeferred
    | ItemsSkipped
    | ItemsWanted
)
