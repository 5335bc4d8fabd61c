"""CPU seconds and peak memory of a function, measured in a fresh process."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.benchmarks.size import is_smoke

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    seconds: float
    """CPU seconds over all threads, which other work on the machine hardly changes."""
    peak_mb: float
    """Peak memory in MiB beyond what was allocated before. The result counts too."""


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, a top-level function of a module, in a fresh process. Return its result.

    A smoke run calls it in this process, because each start of a process takes seconds of imports.
    What would travel between the processes is pickled all the same.
    """
    if is_smoke():
        function, args, kwargs = pickle.loads(pickle.dumps((function, args, kwargs)))
        copy: T = pickle.loads(pickle.dumps(function(*args, **kwargs)))
        return copy
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def measured(function: Callable[[], T]) -> tuple[T, Cost]:
    """Call `function` and measure it. The peak is the kernel's high-water mark, which Linux can
    reset."""
    Path("/proc/self/clear_refs").write_text("5")
    before, begin = _peak_kib(), time.process_time()
    result = function()
    seconds = time.process_time() - begin
    return result, Cost(seconds=seconds, peak_mb=(_peak_kib() - before) / 1024)


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
