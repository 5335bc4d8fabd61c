"""Where a run hands over what it makes while it runs; the run knows no store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Turn: TypeAlias = Literal["go on", "save", "stop"]


class Sink(Protocol):
    """Each call returns when the thing is safe, so that a run killed later need not repeat it."""

    def rewind(self, step: int, payload: bytes) -> None:
        """Weights after `step` optimizer steps: safetensors, `backbone.*` and `head.*`, float32."""

    def cut(self, key: str, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        """The ticket of the riding cut `key`: backbone tensor name -> kept."""

    def checkpoint(self, payload: bytes) -> None:
        """The state to resume from, replacing the one before."""

    def turn(self, step: int) -> Turn:
        """Asked after every step, so it must return at once: whether to save a checkpoint now, or
        to save one and end with `Stopped`. A run that is through does neither."""

    def alive(self) -> None:
        """A sign of life from work between two steps that may take long; it must return at once."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """A point of the history: `loss` and `lr`, or `score`, or all."""
