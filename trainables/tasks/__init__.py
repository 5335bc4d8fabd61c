"""The tasks, by name. Nothing heavy is imported here: planning reads this table too.

To add one, write `trainables/tasks/NAME.py` with `open_task` (the protocol is in `base.py`) and add
its line to `TASKS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.spec import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    module: str
    recipes: Mapping[str, Recipe]
    """Architecture -> the recipe its authors published for the task, or the one we tuned. A model
    whose architecture is not listed cannot be trained on the task."""
    shipped_data: Callable[[], Path | None] = lambda: None
    """Folder of the data where a Python package ships it."""
    semantics: int = 1
    """Raised by hand when a change to the module alters results; part of every trial's key."""


def _easy_vqa_data() -> Path | None:
    """The package's folder, found without importing the package."""
    found = importlib.util.find_spec("easy_vqa")
    return Path(found.origin).parent / "data" if found and found.origin else None


TASKS: dict[str, TaskEntry] = {
    "easy_vqa": TaskEntry(
        module="trainables.tasks.easy_vqa",
        # Tuned at size tiny, where they reach 93.6 to 96.0 % (seeds 0, 1, 2; 14 CPU-s) and 83 %
        # (36 CPU-s) on the held-out questions. Larger sizes want a smaller lr.
        recipes={
            "uniter": Recipe(steps=400, batch_size=128, lr=2e-3, dropout=0.0),
            "vilt": Recipe(steps=1000, batch_size=64, lr=1e-3, dropout=0.0),
        },
        shipped_data=_easy_vqa_data,
    ),
}
