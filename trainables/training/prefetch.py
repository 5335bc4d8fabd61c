"""The next batch is made while the network is at this one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Generator[T]:
    """The same items, each made by a thread while the caller is at the one before it. What goes
    wrong in making one is raised when it is due.

    Padding 64 examples of 20 to 60 regions takes 42 ms of one core, making numbers of 32 pictures
    of 384 x 608 for ViLT 102 ms: time for which a GPU need not stand still.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "batches", _on_this_gpu()) as thread:
        coming = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


def _on_this_gpu() -> partial[None] | None:
    """What a thread begins with that pins memory, as torch's DataLoader has it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return partial(torch.cuda.set_device, torch.cuda.current_device())
