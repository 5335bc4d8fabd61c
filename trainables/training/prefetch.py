"""Preparing the next batch while the network processes the current one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T]:
    """Yield the same items. A thread prepares each one while the caller processes the one before.

    An error in preparing an item is raised when the item is due. Padding 64 examples of 20 to 60
    regions takes 42 ms of one core, and converting 32 images of 384 x 608 pixels to floats for
    ViLT 102 ms; a GPU does not have to wait for that.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "batches", _device_initializer()) as thread:
        upcoming = thread.submit(next, iterator, end)
        while (item := upcoming.result()) is not end:
            upcoming = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]


def _device_initializer() -> partial[None] | None:
    """Return what a thread that pins memory must call first, as in torch's DataLoader."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return partial(torch.cuda.set_device, torch.cuda.current_device())
