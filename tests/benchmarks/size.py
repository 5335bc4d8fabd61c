"""The size of a run: full, which gives the figures, or smoke, which only shows that it works."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

VARIABLE = "SWEEPSTAKES_BENCHMARKS"
"""Environment variable that selects the size, because other processes read it too. `python -m
tests.benchmarks --smoke` sets it before it imports a benchmark."""


def is_smoke() -> bool:
    return os.environ.get(VARIABLE) == "smoke"


def sized(full: T, smoke: T) -> T:
    """Return `full`, or `smoke` in a smoke run."""
    return smoke if is_smoke() else full
