"""The tasks, by name. This module imports nothing heavy, because planning reads it too.

To add one, write `trainables/tasks/NAME.py` with `open_task` (`base.py` describes the protocol) and
add an entry to `TASKS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.formats import FORMATS
from trainables.errors import DataError, RecipeError, TrainableError, suggest
from trainables.models import MODELS, EmbeddingExtension
from trainables.registry import Registry
from trainables.spec import Recipe, Scalar, TaskSpec
from trainables.tasks import recipes
from trainables.tasks.mixture import parse_mixture


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEntry:
    module: str
    recipes: Mapping[str, Recipe]
    """Architecture -> the recipe that its authors published for the task, or a tuned one. A model
    from outside may bring its own (`ModelEntry.recipes`)."""
    text: bool = True
    """Whether its examples have texts. A model that reads none cannot be trained on them."""
    published: bool = False
    """Whether the data are published files, whose names the layouts of `trainables.data.formats`
    list. Then the data's fingerprint covers only these files, else all files of the folder."""
    augments: bool = False
    """Whether `train_batch` applies the recipe's augmentation (`TaskSource.augmentation`) to
    pixels."""
    files: tuple[str, ...] = ()
    """Paths of files that the data folder must have, unless the data are published. Planning checks
    that they exist."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """The options that `TaskSpec.options` may set, with their defaults."""
    check_options: Callable[[Mapping[str, Scalar]], object] = lambda options: None
    """Raise TrainableError for values that the task cannot use. It gets all options, each of the
    type of its default."""
    embedding_extensions: Mapping[str, tuple[EmbeddingExtension, ...]] = field(default_factory=dict)
    """Architecture -> the rows that the task adds to its embedding tables. A model from outside may
    bring its own (`ModelEntry.embedding_extensions`)."""
    sequences: int = 1
    """Number of sequences per training example, unless the model has another
    (`ModelEntry.sequences`)."""
    columns: Mapping[str, str] = field(default_factory=lambda: {"score": ""})
    """Scores that tables show -> suffix of the task's name in the column's title. Retrieval has two
    scores."""
    varies_parameters: bool = False
    """Whether micro-batches of one optimizer step can differ in which weights of the network they
    use. Then it cannot be trained by several workers at ZeRO 1 or more. A task that gives unused
    weights zero gradients, as pre-training does (`PretrainingHead`), or whose steps differ while
    the micro-batches of each agree, leaves it False."""
    pretraining: bool = False
    """Whether its runs count as pre-training rounds instead of fine-tuning runs."""
    shipped_data: Callable[[], Path | None] = lambda: None
    """Return the folder of the data if a Python package ships them."""
    semantics: int = 1
    """Increase it when a change to the module alters results; it is part of every trial's key."""


def _easy_vqa_data() -> Path | None:
    """Find the package's data folder without importing the package."""
    found = importlib.util.find_spec("easy_vqa")
    return Path(found.origin).parent / "data" if found and found.origin else None


def _check_retrieval(options: Mapping[str, Scalar]) -> None:
    if options["split"] not in ("val", "test"):
        raise TrainableError(f"task retrieval: split = {options['split']!r}; use val or test")
    if int(options["eval_images"]) < 0:
        raise TrainableError(
            f"task retrieval: eval_images = {options['eval_images']}; use 0 (all) or more"
        )


_BLIND: Mapping[str, Scalar] = {"blind": False}
"""With `blind`, image inputs keep their shape but are all zero."""
_TYPES = "embeddings.token_type_embeddings.weight"
_WORDS = "embeddings.word_embeddings.weight"
_EXTRA_WORDS = FORMATS["uniter"].layouts["vcr"].extra_words

_BUILTIN: dict[str, TaskEntry] = {
    "easy_vqa": TaskEntry(
        module="trainables.tasks.easy_vqa",
        # Tuned at size tiny, where they reach 93.6 to 96.0 % (seeds 0, 1, 2; 14 CPU-s) and 83 %
        # (36 CPU-s) on the held-out questions. Larger sizes need a smaller lr.
        recipes={
            "uniter": Recipe(steps=400, batch_size=128, lr=2e-3, dropout=0.0),
            "vilt": Recipe(steps=1000, batch_size=64, lr=1e-3, dropout=0.0),
        },
        files=("train/questions.json", "test/questions.json"),
        augments=True,
        shipped_data=_easy_vqa_data,
    ),
    "vqa": TaskEntry(
        module="trainables.tasks.vqa",
        recipes=recipes.VQA,
        published=True,
        augments=True,
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
        augments=True,
        options=_BLIND,
    ),
    "nlvr2": TaskEntry(
        module="trainables.tasks.nlvr2",
        recipes=recipes.NLVR2,
        published=True,
        augments=True,
        options=_BLIND,
        # A token type for the second image, initialised as the type of the first.
        embedding_extensions={
            "uniter": (
                EmbeddingExtension(
                    setting="type_vocab_size", weight=_TYPES, extra_rows=1, init_row=1
                ),
            ),
            "vilt": (
                EmbeddingExtension(
                    setting="modality_types", weight=_TYPES, extra_rows=1, init_row=1
                ),
            ),
        },
        sequences=2,
    ),
    "vcr": TaskEntry(
        module="trainables.tasks.vcr",
        recipes=recipes.VCR,
        published=True,
        options=_BLIND,
        # Token types for answers and reasons, initialised as the type of text; words for named
        # people and objects.
        embedding_extensions={
            "uniter": (
                EmbeddingExtension(
                    setting="type_vocab_size", weight=_TYPES, extra_rows=2, init_row=0
                ),
                EmbeddingExtension(
                    setting="vocab_size", weight=_WORDS, extra_rows=_EXTRA_WORDS, init_row=None
                ),
            ),
        },
        sequences=4,
        semantics=2,
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
        augments=True,
        # VLT does not say which split it scores on. `eval_images` above 0 makes a smaller matrix.
        options={**_BLIND, "split": "val", "eval_images": 0},
        check_options=_check_retrieval,
        sequences=16,
        columns={"ir1": "IR", "tr1": "TR"},
    ),
    "pretraining": TaskEntry(
        module="trainables.tasks.pretraining",
        recipes=recipes.PRETRAINING,
        published=True,
        # The published proportions of the objectives, the same for every corpus.
        options={
            **_BLIND,
            "objectives": "itm:6,mlm:8,mrfr:4,mrc_kl:4",
            "corpora": "coco+vg+cc+sbu",
        },
        check_options=lambda options: parse_mixture(str(options["objectives"])),
        pretraining=True,
    ),
}

TASKS: Registry[TaskEntry] = Registry(
    TaskEntry, group="sweepstakes.tasks", attribute="TASK", builtin=_BUILTIN
)


def resolve_options(spec: TaskSpec) -> dict[str, Scalar]:
    """Return the task's options with the defaults filled in.

    It needs no data, so that planning refuses what a worker would refuse. Raises TrainableError for
    an option that the task does not have, or for a value that it cannot use.
    """
    entry = TASKS[spec.name]
    for name, value in spec.options:
        if name not in entry.options:
            raise TrainableError(
                f"task {spec.name}: no option {name!r}; {suggest(name, entry.options)}"
            )
        default = entry.options[name]
        if type(value) is not type(default):
            raise TrainableError(
                f"task {spec.name}: option {name} = {value!r}; "
                f"give a {type(default).__name__}, such as {default!r}"
            )
    options = {**entry.options, **dict(spec.options)}
    entry.check_options(options)
    return options


def default_recipe(task: str, architecture: str) -> Recipe:
    """Return the recipe of a task for a model: the task's, or else the one that the model brings.

    Raises RecipeError for a model that cannot be trained on the task.
    """
    entry, model = TASKS[task], MODELS[architecture]
    if entry.text and not model.tokenizer:
        raise RecipeError(
            f"task {task} has texts, which {architecture} does not read; use a model that does, or "
            "a task without texts"
        )
    recipe = entry.recipes.get(architecture) or model.recipes.get(task)
    if recipe is None:
        known = [
            name
            for name, each in MODELS.loadable().items()
            if name in entry.recipes or task in each.recipes
        ]
        raise RecipeError(
            f"task {task} does not support {architecture}; use a model of {', '.join(known)}"
        )
    return recipe


def embedding_extensions(task: str, architecture: str) -> tuple[EmbeddingExtension, ...]:
    """Return the rows that a task adds to a model's embedding tables: those of the task's entry, or
    else those that the model brings."""
    model = MODELS[architecture]
    return TASKS[task].embedding_extensions.get(
        architecture, model.embedding_extensions.get(task, ())
    )


def sequences_per_example(task: str, architecture: str) -> int:
    """Return the number of sequences per training example of a task for a model."""
    return MODELS[architecture].sequences.get(task, TASKS[task].sequences)


def check_files(task: str, folder: Path) -> None:
    """Raise DataError if the folder of a task's data lacks a file that its entry names."""
    for name in TASKS[task].files:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name}: no such file; give the folder with it, or complete it"
            )
