"""Measuring CPU seconds and peak memory, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    seconds: float
    """Of CPU, over all threads: other work on the machine hardly changes them."""
    peak_mb: float
    """Most memory at once beyond what was held before, in MiB; what is returned counts."""


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `function`, a module's own, called in a fresh process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def measured(function: Callable[[], T]) -> tuple[T, Cost]:
    """Calls `function`. The peak is the kernel's own high-water mark, which Linux can lower."""
    Path("/proc/self/clear_refs").write_text("5")
    before, begin = _peak_kib(), time.process_time()
    result = function()
    seconds = time.process_time() - begin
    return result, Cost(seconds=seconds, peak_mb=(_peak_kib() - before) / 1024)


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
