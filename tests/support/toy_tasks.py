"""Small in-memory data whose labels depend on the image: each image shows one of `CLASSES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.schema.examples import Data, Pixels, Ragged, Regions, Split, VocabularyInfo
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.spec import ModelSpec, Options, TaskSpec
from trainables.tasks import TASKS, embedding_extensions
from trainables.tasks.base import TaskSource
from trainables.tasks.common import PublishedTask
from trainables.tasks.gqa import GqaTask
from trainables.tasks.nlvr2 import Nlvr2Task
from trainables.tasks.snli_ve import SnliVeTask
from trainables.tasks.vcr import VcrTask
from trainables.tasks.vqa import VqaTask
from trainables.training.start import extended_backbone

CLS, SEP, WORD = 1, 2, 20
CLASSES = 4
IMAGES = 12
ANSWERS = ("yes", "no", "2", "red")
_TASK_CLASSES: dict[str, type[PublishedTask]] = {
    "vqa": VqaTask,
    "gqa": GqaTask,
    "snli_ve": SnliVeTask,
    "nlvr2": Nlvr2Task,
    "vcr": VcrTask,
}
UNUSED_SOURCE = TaskSource(Path("data"), Path("cache"))


def toy_data(
    task: str, architecture: str, count: int = 16, answers: tuple[str, ...] = ANSWERS
) -> Data:
    """VQA, GQA, SNLI-VE: the answer is the class of the image. NLVR2: the label is whether the
    class of the first image is below 2. VCR: the choice that names the class is right."""
    return Data(
        train=toy_split(task, architecture, count, 0),
        held_out=toy_split(task, architecture, count, 1),
        answers=answers,
        vocabulary=VocabularyInfo(pad=0, cls=CLS, sep=SEP, mask=3, unknown=4, first=5, size=128),
    )


def toy_split(task: str, architecture: str, count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(IMAGES, size=(count, 2 if task == "nlvr2" else 1)).astype(np.int32)
    classes = images % CLASSES
    kinds = None
    if task == "vcr":
        labels = rng.integers(4, size=(count, 2)).tolist()
        texts = [
            _sentence(WORD + (classes[e, 0] + choice - right) % CLASSES)
            for e, both in enumerate(labels)
            for right in both
            for choice in range(4)
        ]
        row = [[0, 0, 2], [2, 3, 3]]
        kinds = Ragged.from_rows([row[n // 4 % 2] for n in range(8 * count)], np.uint8)
    else:
        # Two sentences of different length.
        texts = [_sentence(*[WORD] * (1 + e % 2)) for e in range(count)]
        labels = [[int(a < 2)] if b else [int(a)] for a, *b in classes.tolist()]
    return Split(
        keys=[str(e) for e in range(count)],
        texts=Ragged.from_rows(texts, np.int32),
        token_types=kinds,
        images=images,
        labels=Ragged.from_rows(labels, np.int32),
        scores=Ragged.from_rows([[1.0] * len(each) for each in labels], np.float32),
        image_data=_regions() if MODELS[architecture].modality == "regions" else _pixels(),
    )


def backbone(task: str, architecture: str, size: str = "tiny", overrides: Options = ()) -> Backbone:
    spec = ModelSpec(architecture=architecture, size=size, overrides=overrides)
    return extended_backbone(spec, embedding_extensions(task, architecture), 0.0)


def toy_task(
    task: str,
    data: Data,
    model: Backbone,
    options: Options = (),
    source: TaskSource = UNUSED_SOURCE,
) -> Any:
    spec = TaskSpec(name=task, data="d", options=options)
    return _TASK_CLASSES[task](data, source, spec, model)


def _sentence(*words: int) -> list[int]:
    return [CLS, *words, SEP]


def _regions() -> Regions:
    """2 or 3 regions per image; a class is encoded by 8 of the feature dimensions."""
    rng = np.random.default_rng(7)
    features = []
    for image in range(IMAGES):
        regions = 0.1 * rng.standard_normal((2 + image % 2, 192))
        regions[:, 8 * (image % CLASSES) :][:, :8] += 2
        features.append(regions)
    boxes = [rng.random((len(regions), 7)) for regions in features]
    return Regions(
        features=Ragged.from_rows(features, np.float16, (192,)),
        boxes=Ragged.from_rows(boxes, np.float32, (7,)),
    )


def _pixels() -> Pixels:
    """Images of 16 x 16 and 16 x 24 pixels; a class is a colour."""
    colours = [[0, 0, 255], [255, 0, 0], [0, 255, 0], [255, 255, 255]]
    sizes = [(16, 16 + 8 * (image % 2)) for image in range(IMAGES)]
    pixels = [
        np.tile(colours[image % CLASSES], (height * width, 1))
        for image, (height, width) in enumerate(sizes)
    ]
    return Pixels(pixels=Ragged.from_rows(pixels, np.uint8, (3,)), sizes=np.array(sizes, np.int32))


FINE_TUNING_TASKS = ("vqa", "gqa", "snli_ve", "nlvr2", "vcr")
TASK_MODEL_PAIRS = [(task, model) for task in FINE_TUNING_TASKS for model in TASKS[task].recipes]
