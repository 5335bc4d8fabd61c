"""The tasks, by name. Nothing heavy is imported here: planning reads this table too.

To add one, write `trainables/tasks/NAME.py` with `open_task` (the protocol is in `base.py`) and add
its line to `TASKS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.schema.layouts import LAYOUTS
from trainables.spec import Recipe, Scalar
from trainables.tasks import recipes


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Rows that a task adds to a table of the backbone, as the official code does before it loads
    a checkpoint."""

    setting: str
    """The configuration value that holds the number of rows."""
    weight: str
    extra: int
    like: int | None
    """The row that the new ones copy; None draws them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    module: str
    recipes: Mapping[str, Recipe]
    """Architecture -> the recipe its authors published for the task, or the one we tuned. A model
    whose architecture is not listed cannot be trained on the task."""
    published: bool = False
    """Its data are the published files that `trainables.data.schema.layouts` names, and only
    these count for the data's fingerprint; else all files of its folder do."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """What `TaskSpec.options` may name, with the defaults."""
    grows: Mapping[str, tuple[Growth, ...]] = field(default_factory=dict)
    """By architecture."""
    sequences: Mapping[str, int] = field(default_factory=dict)
    """Architecture -> how many sequences a training example puts through it, where not 1."""
    columns: Mapping[str, str] = field(default_factory=lambda: {"score": ""})
    """The scores that tables show, each with what it adds to the task's name: retrieval has two."""
    pretraining: bool = False
    """Its runs are counted as pre-training rounds, apart from fine-tunes."""
    shipped_data: Callable[[], Path | None] = lambda: None
    """Folder of the data where a Python package ships it."""
    semantics: int = 1
    """Raised by hand when a change to the module alters results; part of every trial's key."""


def _easy_vqa_data() -> Path | None:
    """The package's folder, found without importing the package."""
    found = importlib.util.find_spec("easy_vqa")
    return Path(found.origin).parent / "data" if found and found.origin else None


_BLIND: Mapping[str, Scalar] = {"blind": False}
"""Every task can be trained without seeing: images keep their shape and say nothing."""
_TYPES = "embeddings.token_type_embeddings.weight"
_WORDS = "embeddings.word_embeddings.weight"
_EXTRA_WORDS = LAYOUTS["vcr", "uniter"].extra_words

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
    "vqa": TaskEntry(
        module="trainables.tasks.vqa",
        recipes=recipes.VQA,
        published=True,
        options=_BLIND,
    ),
    "gqa": TaskEntry(
        module="trainables.tasks.gqa",
        recipes=recipes.GQA,
        published=True,
        options=_BLIND,
    ),
    "snli_ve": TaskEntry(
        module="trainables.tasks.snli_ve",
        recipes=recipes.SNLI_VE,
        published=True,
        options=_BLIND,
    ),
    "nlvr2": TaskEntry(
        module="trainables.tasks.nlvr2",
        recipes=recipes.NLVR2,
        published=True,
        options=_BLIND,
        # A type for the second image, that of the first to begin with.
        grows={
            "uniter": (Growth(setting="type_vocab_size", weight=_TYPES, extra=1, like=1),),
            "vilt": (Growth(setting="modality_types", weight=_TYPES, extra=1, like=1),),
        },
        sequences={"uniter": 2, "lxmert": 2, "vilt": 2},
    ),
    "vcr": TaskEntry(
        module="trainables.tasks.vcr",
        recipes=recipes.VCR,
        published=True,
        options=_BLIND,
        # Types for answers and reasons, that of text to begin with; words for named people and
        # objects.
        grows={
            "uniter": (
                Growth(setting="type_vocab_size", weight=_TYPES, extra=2, like=0),
                Growth(setting="vocab_size", weight=_WORDS, extra=_EXTRA_WORDS, like=None),
            ),
        },
        sequences={"uniter": 4},
    ),
    "refcoco": TaskEntry(
        module="trainables.tasks.refcoco",
        recipes=recipes.REFCOCO,
        published=True,
        options=_BLIND,
    ),
    "retrieval": TaskEntry(
        module="trainables.tasks.retrieval",
        recipes=recipes.RETRIEVAL,
        published=True,
        # VLT does not say on which split it scores. `eval_images` above 0 makes a smaller matrix.
        options={**_BLIND, "split": "val", "eval_images": 0},
        sequences={"uniter": 3, "vilt": 16},
        columns={"ir1": "IR", "tr1": "TR"},
    ),
    "pretraining": TaskEntry(
        module="trainables.tasks.pretraining",
        recipes=recipes.PRETRAINING,
        published=True,
        # The published proportions, the same for every corpus.
        options={
            **_BLIND,
            "objectives": "itm:6,mlm:8,mrfr:4,mrc_kl:4",
            "corpora": "coco+vg+cc+sbu",
        },
        pretraining=True,
    ),
}
