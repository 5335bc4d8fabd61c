"""A data format, a scheme of data references and an augmentation of a user's own, each in one
file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.user_modules import UserModule, install, uninstall

REGION_DIM = 8
VOCABULARY_SIZE = 50

LINES = UserModule(
    "lines",
    '''
"""VQA as JSON lines: one file of examples per split, and one file of all images."""
import json

import numpy as np

from trainables.data.formats import FormatEntry
from trainables.data.schema.examples import VocabularyInfo
from trainables.data.schema.fields import SOFT_TARGETS
from trainables.data.schema.layouts import Layout, SplitFiles
from trainables.data.schema.records import ExampleRecord, Reader

IMAGES = "lines/images.jsonl"
FORMAT = FormatEntry(
    module=__name__,
    modality="regions",
    layouts={
        "vqa": Layout(
            train=(SplitFiles("lines/train.jsonl", (IMAGES,)),),
            held_out=(SplitFiles("lines/val.jsonl", (IMAGES,)),),
            answer_names=("yes", "no"),
            example=SOFT_TARGETS,
        )
    },
)


class LinesReader(Reader):
    def __init__(self, root, layout):
        self.root, self.layout = root, layout

    def vocabulary(self):
        return VocabularyInfo(pad=0, cls=1, sep=2, mask=3, unknown=4, first=5, size=50)

    def answers(self):
        return self.layout.answer_names

    def records(self, split):
        (files,) = self.layout.train if split == "train" else self.layout.held_out
        for line in (self.root / files.texts).open():
            fields = json.loads(line)
            yield ExampleRecord(
                key=fields["id"],
                file=files.texts,
                texts=[fields["tokens"]],
                images=((IMAGES, fields["image"]),),
                labels=fields["labels"],
                scores=fields["scores"],
            )

    def images(self, split, wanted):
        for line in (self.root / IMAGES).open():
            fields = json.loads(line)
            if (IMAGES, fields["image"]) in wanted:
                yield (IMAGES, fields["image"]), lambda fields=fields: {
                    "features": np.array(fields["features"], np.float16),
                    "boxes": np.array(fields["boxes"], np.float32),
                }


def open_reader(root, layout, *, image_size, patch_size):
    return LinesReader(root, layout)
''',
)
TOY_SCHEME = UserModule(
    "toy",
    '''
"""`toy://SEED@NUMBER`: a file of as many lines as the revision says."""
from trainables.data.reference import DataScheme

DATA_SCHEME = DataScheme(module=__name__, revision="[0-9]+")


def fetch(name, revision, folder, files):
    if name == "gone":
        raise OSError("no such data set")
    (folder / "numbers.txt").write_text(name * int(revision))
''',
)
INVERT = UserModule(
    "invert",
    '''
"""Invert the colours of half of the images."""
from trainables.data.augmentation import AugmentationEntry

AUGMENTATION = AugmentationEntry(module=__name__)


def augment(pixels, rng):
    return 255 - pixels if rng.uniform() < 0.5 else pixels
''',
)


@contextmanager
def installed(*modules: UserModule) -> Iterator[None]:
    """Install the files within the context."""
    install(modules)
    try:
        yield
    finally:
        uninstall()


def write_lines(root: Path, **changes: Any) -> None:
    """Write VQA in the format `lines` below `root`: six examples per split on three images. The
    third training example has `changes`."""
    folder = root / "lines"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        lines = []
        for number in range(6):
            line = {
                "id": f"{split}-{number}",
                "tokens": [1, 5 + number, 2],
                "image": f"image_{number % 3}",
                "labels": [number % 2],
                "scores": [1.0],
            }
            if split == "train" and number == 2:
                line |= changes
            lines.append(json.dumps(line))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    images = [
        {
            "image": f"image_{number}",
            "features": [[number + region / 8] * REGION_DIM for region in range(2 + number)],
            "boxes": [[0.0, 0.0, 0.5, 1.0, 0.5, 1.0, 0.5]] * (2 + number),
        }
        for number in range(3)
    ]
    (folder / "images.jsonl").write_text("".join(json.dumps(image) + "\n" for image in images))
