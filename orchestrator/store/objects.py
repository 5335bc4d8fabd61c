"""What the ticket store needs of a place that keeps bytes under paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    path: str
    size: int
    """In bytes."""
    modified: datetime
    """By the server's clock, with a time zone."""
    etag: str
    """Changes when the content does."""
    seen: datetime
    """When the server said so, by the same clock: clocks of other machines may be set back."""

    @property
    def age(self) -> timedelta:
        """Since the object was written, by the server's clock alone."""
        return self.seen - self.modified


class ObjectStore(Protocol):
    """All methods raise `StoreUnreachable` when no usable answer comes within the time-outs, and
    the writing ones `StoreFull`.
    """

    def where(self, path: str) -> str:
        """The full address of `path`, for people."""

    def put_new(self, path: str, data: bytes) -> bool:
        """Create the object; False, and nothing changes, if there is one already. After a lost
        reply False may also mean that this very write had arrived."""

    def put(self, path: str, data: bytes) -> None:
        """Create or replace the object."""

    def get(self, path: str) -> bytes:
        """The whole object. Raises NotInStore, and Damaged when the store itself cannot deliver
        the content it has."""

    def stat(self, path: str) -> Listed | None:
        """Size and date of the object; None if there is none."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """All objects whose path starts with `prefix`, sorted by path."""

    def delete(self, path: str) -> None:
        """Remove the object if it is there."""
