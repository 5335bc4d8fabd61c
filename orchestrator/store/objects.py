"""Object storage as the ticket store needs it: bytes under paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from orchestrator.errors import StoreError


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    path: str
    size: int
    """In bytes."""
    modified: datetime
    """By the server's clock, with a time zone."""
    etag: str
    """Changes when the content does."""
    observed: datetime
    """When the server reported this, by the same clock; clocks of other machines may be wrong."""

    @property
    def age(self) -> timedelta:
        """Time since the object was written, by the server's clock alone."""
        return self.observed - self.modified


class ObjectStore(Protocol):
    """Interface of an object store.

    All methods raise `StoreUnreachable` when no usable answer arrives within the timeouts; methods
    that write also raise `StoreFull`.
    """

    def url(self, path: str) -> str:
        """Return the full address of `path`, for messages."""

    def put_new(self, path: str, data: bytes) -> bool:
        """Create the object. Return False and change nothing if it already exists.

        After a lost reply, False may also mean that an earlier attempt of this write succeeded.
        """

    def put(self, path: str, data: bytes) -> None:
        """Create or replace the object."""

    def get(self, path: str) -> bytes:
        """Return the complete object.

        Raises:
            NotInStore: there is no such object.
            Damaged: the store has the object but cannot deliver its content.
        """

    def stat(self, path: str) -> ObjectInfo | None:
        """Return size and date of the object, or None if it does not exist."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose path starts with `prefix`, sorted by path."""

    def delete(self, path: str) -> None:
        """Remove the object if it exists."""


class ReadOnlyObjects:
    """An `ObjectStore` that refuses every change of another one."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def url(self, path: str) -> str:
        return self._objects.url(path)

    def get(self, path: str) -> bytes:
        return self._objects.get(path)

    def stat(self, path: str) -> ObjectInfo | None:
        return self._objects.stat(path)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._objects.list(prefix)

    def put_new(self, path: str, data: bytes) -> bool:
        raise self._refusal(path)

    def put(self, path: str, data: bytes) -> None:
        raise self._refusal(path)

    def delete(self, path: str) -> None:
        raise self._refusal(path)

    def _refusal(self, path: str) -> StoreError:
        return StoreError(f"{self.url(path)}: the store is open for reading only")
