"""Where a run hands over what it makes while it runs; the run knows no store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Sink(Protocol):
    """Each call returns when the thing is safe, so that a run killed later need not repeat it."""

    def rewind(self, step: int, payload: bytes) -> None:
        """Weights after `step` optimizer steps: safetensors, `backbone.*` and `head.*`, float32."""

    def cut(self, key: str, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        """The ticket of the riding cut `key`: backbone tensor name -> kept."""

    def checkpoint(self, payload: bytes) -> None:
        """The state to resume from, replacing the one before."""

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """A point of the history: `loss` and `lr`, or `score`, or all."""
