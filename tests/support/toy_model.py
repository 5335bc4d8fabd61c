"""A model and a task from outside the package, as a user writes them: one file.

The model is a residual network of convolutions and BatchNorm. It reads pixels and no text; its pool
has 4-D kernels, and its state has buffers. The task tells four textures apart. Its data are a
folder with `textures.npz`, which `write_data` generates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from trainables.errors import CheckpointError, DataError
from trainables.models import ModelConfig, ModelEntry, Shapes
from trainables.models.base import Backbone, Encoded, image_input
from trainables.models.checkpoint import Checkpoint, load_checkpoint
from trainables.seeds import Rng
from trainables.spec import ModelSpec, Recipe, TaskSpec
from trainables.tasks import TaskEntry
from trainables.tasks.base import Batch, Indices, Task, TaskSource
from trainables.tasks.heads import answer_head, symmetric_kl

CLASSES = 4
SIDE = 8
"""Height and width of an image in pixels."""


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    image_size: int = SIDE
    hidden_size: int = 8
    blocks: int = 2

    def pools(self) -> Mapping[str, Shapes]:
        names = [f"blocks.{n}.{conv}.weight" for n in range(self.blocks) for conv in _CONVS]
        kernels = dict.fromkeys(names, (self.hidden_size, self.hidden_size, 3, 3))
        stem = {"stem.weight": (self.hidden_size, 3, 3, 3)}
        return {"convolutions": {**stem, **kernels}, "blocks": kernels}

    def problem(self) -> str:
        if self.image_size % 2:
            return f"image_size {self.image_size} is odd; give an even number"
        return ""


_CONVS = ("conv1", "conv2")

MODEL = ModelEntry(
    module=__name__,
    sizes={"tiny": ToyConfig(), "base": ToyConfig(hidden_size=16, blocks=4)},
    modality="pixels",
    pool="convolutions",
    pixel_mean=(0.5, 0.4, 0.3),
    pixel_std=(0.2, 0.2, 0.2),
    groups={"stem": ("backbone.stem.", "backbone.norm.")},
)

TASK = TaskEntry(
    module=__name__,
    recipes={"toy_model": Recipe(steps=12, batch_size=16, lr=1e-2, dropout=0.0, eval_every=4)},
    text=False,
)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.norm2(self.conv2(relu(self.norm1(self.conv1(maps)))))
        return relu(maps + out)


class ToyModel(Backbone):
    def __init__(self, architecture: str, config: ToyConfig) -> None:
        super().__init__(architecture, config)
        self.stem = nn.Conv2d(3, config.hidden_size, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(config.hidden_size)
        self.blocks = nn.Sequential(*(Block(config.hidden_size) for _ in range(config.blocks)))

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        pixels = image_input(batch, "pixel_values", self.stem.weight.dtype)
        maps = self.blocks(relu(self.norm(self.stem(pixels))))
        positions = maps.flatten(2).transpose(1, 2)
        return Encoded(positions.mean(dim=1), positions[:, :0], positions)


def build(spec: ModelSpec, *, dropout: float) -> ToyModel:
    return ToyModel(spec.architecture, MODEL.config(spec))


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Load a state dict as `torch.save` or safetensors write it."""
    return load_checkpoint(path, spec, build, prefixes=(), heads=("head.",), fill=fill)


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> Never:
    raise CheckpointError(f"model {spec.architecture}: transformers has no class to load it with")


@dataclass(frozen=True)
class Textures:
    images: Tensor
    """(N, SIDE, SIDE, 3) uint8"""
    labels: Tensor
    """(N,) int64"""

    def batch(self, rows: Indices) -> dict[str, Tensor]:
        """Return the images and labels of `rows` (B,)."""
        index = torch.from_numpy(rows)
        values = self.images[index].permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MODEL.pixel_mean, MODEL.pixel_std))
        return {"pixel_values": (values - mean) / std, "labels": self.labels[index]}


class TexturesTask(Task):
    def __init__(self, train: Textures, held_out: Textures) -> None:
        self.train, self.held_out = train, held_out

    @property
    def num_eval(self) -> int:
        return len(self.held_out.labels)

    @property
    def prior(self) -> float:
        """Score of always choosing the most frequent class."""
        frequent = torch.bincount(self.train.labels).argmax()
        return 100 * float((self.held_out.labels == frequent).double().mean())

    def lengths(self) -> Indices:
        return np.full(len(self.train.labels), SIDE * SIDE)

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return answer_head(backbone.architecture, hidden, hidden, CLASSES)

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        return self.train.batch(indices)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        count = min(examples or self.num_eval, self.num_eval)
        for first in range(0, count, batch_size):
            yield self.held_out.batch(np.arange(first, min(first + batch_size, count)))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        right = torch.cat([logits.argmax(dim=1) == batch["labels"] for logits, batch in scored])
        return {"score": 100 * float(right.double().mean())}


def open_task(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> TexturesTask:
    source.reference.check_unchanged(spec.data, "data")
    path = source.local_path() / "textures.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = [
                Textures(
                    torch.from_numpy(arrays[f"{split}_images"]),
                    torch.from_numpy(arrays[f"{split}_labels"]),
                )
                for split in ("train", "held_out")
            ]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: no textures ({error}); generate them again") from error
    return TexturesTask(*splits)


def write_data(folder: Path, *, train: int = 256, held_out: int = 64, seed: int = 0) -> Path:
    """Generate textures: stripes across, stripes down, a chequerboard, or none, in a random colour
    and with noise. Return `folder`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE)) % 2
    patterns = np.stack([rows, columns, rows ^ columns, np.full((SIDE, SIDE), 0.5)]) - 0.5
    arrays = {}
    for split, count in (("train", train), ("held_out", held_out)):
        labels = rng.integers(CLASSES, size=count)
        colours = rng.uniform(64, 192, size=(count, 1, 1, 3))
        contrast = rng.uniform(40, 80, size=(count, 1, 1, 1))
        noise = rng.normal(0, 20, size=(count, SIDE, SIDE, 3))
        values = colours + contrast * patterns[labels][..., None] + noise
        arrays[f"{split}_images"] = values.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "textures.npz", **arrays)
    return folder
