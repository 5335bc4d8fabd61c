"""easy-VQA as 13-way classification: 38,575 questions to train on, 9,673 held out.

Questions are words with ids of the task's own, not WordPiece's. Region models see crops: the
object's box and a grid (see `GRID` of `trainables.data.formats.easy_vqa`), standardised per pixel
position by the train split; pixel models see the image, standardised per channel.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from trainables.data import fingerprint
from trainables.data.formats import easy_vqa as reader
from trainables.errors import DataError, TrainableError
from trainables.models import Modality
from trainables.models.base import Backbone
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import classifier, symmetric_kl

_KINDS = {"yes_no": reader.YES_NO, "shape": reader.SHAPES, "color": reader.COLORS}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Split:
    """Q questions on M images, as tensors; images stay bytes until they are batched."""

    input_ids: Tensor
    """(Q, T) int64."""
    text_mask: Tensor
    """(Q, T) bool."""
    labels: Tensor
    """(Q,) int64."""
    image: Tensor
    """(Q,) int64."""
    seen: Tensor
    """uint8, channels last: crops (M, N, s * s, 3) or images (M, S, S, 3)."""
    boxes: Tensor | None
    """(M, N, 7) where the model reads regions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    train: _Split
    held_out: _Split
    mean: Tensor
    std: Tensor
    """Of the train split's bytes: (s * s, 3) for crops, (3,) for images."""
    words: int
    """Ids in use."""
    prior: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EasyVQA:
    """Implements `trainables.tasks.base.Task`."""

    data: _Data
    dim: int
    """region_dim or image_size of the model."""

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out.labels)

    @property
    def prior(self) -> float:
        return self.data.prior

    def lengths(self) -> NDArray[np.int64]:
        words = self.data.train.text_mask.sum(dim=1).numpy()
        boxes = self.data.train.boxes
        seen: NDArray[np.int64] = words + (boxes.shape[1] if boxes is not None else 0)
        return seen

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return classifier(hidden, 2 * hidden, len(reader.ANSWERS))

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return head

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        return self._batch(self.data.train, torch.from_numpy(indices))

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        wanted = min(examples or self.num_eval, self.num_eval)
        for first in range(0, wanted, batch_size):
            rows = torch.arange(first, min(first + batch_size, wanted))
            yield self._batch(self.data.held_out, rows)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Accuracy; also over the questions whose answer is yes or no, a shape, a colour."""
        pairs = [(logits.argmax(dim=-1), batch["labels"]) for logits, batch in scored]
        given = torch.cat([answers for answers, _ in pairs])
        labels = torch.cat([labels for _, labels in pairs])
        right: Tensor = given == labels
        scores = {"score": _percent(right)}
        for kind, answers in _KINDS.items():
            first = reader.ANSWERS.index(answers[0])
            of_kind = (labels >= first) & (labels < first + len(answers))
            if of_kind.any():
                scores[kind] = _percent(right[of_kind])
        return scores

    def _batch(self, split: _Split, rows: Tensor) -> Batch:
        image = split.image[rows]
        pixels = (split.seen[image].to(torch.float32) - self.data.mean) / self.data.std
        batch = {
            "input_ids": split.input_ids[rows],
            "text_mask": split.text_mask[rows],
            "labels": split.labels[rows],
        }
        if split.boxes is None:
            return batch | {"pixel_values": _enlarged(pixels.permute(0, 3, 1, 2), self.dim)}
        features = pixels.flatten(2)
        missing = self.dim - features.shape[-1]
        return batch | {
            "region_features": pad(features, (0, missing)),
            "region_boxes": split.boxes[image],
        }


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> EasyVQA:
    """Decodes on the first call of a process, about 2 s."""
    if spec.options:
        raise TrainableError(f"task easy_vqa: takes no option {spec.options[0][0]!r}; remove it")
    dim = backbone.region_dim or backbone.image_size
    data = source.data
    decoded = _decoded(data, spec.data, backbone.modality, dim)
    tokens = decoded.train.input_ids.shape[1]
    if decoded.words > backbone.vocab_size or tokens > backbone.max_text:
        raise DataError(
            f"{data}: {decoded.words} word ids and {tokens} tokens per question; the model takes "
            f"{backbone.vocab_size} and {backbone.max_text}; raise its vocab_size and "
            "max_position_embeddings"
        )
    return EasyVQA(data=decoded, dim=dim)


@lru_cache(maxsize=2)
def _decoded(folder: Path, planned: str, modality: Modality, dim: int) -> _Data:
    fingerprint.check(folder, planned, "data")
    train, test = reader.read_split(folder, "train"), reader.read_split(folder, "test")
    vocab = reader.vocabulary(train.questions)
    first = _tensors(train, vocab, modality, dim)
    over = (0, 1) if modality == "regions" else (0, 1, 2)
    seen = first.seen.to(torch.float32)
    return _Data(
        train=first,
        held_out=_tensors(test, vocab, modality, dim),
        mean=seen.mean(dim=over),
        std=seen.std(dim=over).clamp(min=1.0),  # of 255; a constant pixel says nothing
        words=reader.SEP + 1 + len(vocab),
        prior=question_prior(train, test),
    )


def question_prior(train: reader.Split, test: reader.Split) -> float:
    """Percent right on `test` when each question gets its text's most frequent answer in `train`,
    and a text never met the most frequent answer of all."""
    answers: list[int] = train.answers.tolist()
    wanted: list[int] = test.answers.tolist()
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for question, answer in zip(train.questions, answers, strict=True):
        counts[question][answer] += 1
    usual = Counter(answers)
    given = [counts.get(question, usual).most_common(1)[0][0] for question in test.questions]
    return 100 * sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted)


def _tensors(split: reader.Split, vocab: dict[str, int], modality: Modality, dim: int) -> _Split:
    ids, mask = reader.encode(split.questions, vocab)
    if modality == "pixels":
        seen, boxes = reader.shrunk(split.images, dim), None
    else:
        places = reader.region_boxes(split.images)
        seen = reader.crops(split.images, places, dim)
        boxes = torch.from_numpy(reader.normalised_boxes(places, split.images.shape[1]))
    return _Split(
        input_ids=torch.from_numpy(ids),
        text_mask=torch.from_numpy(mask),
        labels=torch.from_numpy(split.answers),
        image=torch.from_numpy(split.image),
        seen=torch.from_numpy(seen),
        boxes=boxes,
    )


def _enlarged(pixels: Tensor, side: int) -> Tensor:
    """(B, 3, S, S) -> (B, 3, side, side). Per batch: 5,000 images at 384 px would take 8.8 GB."""
    if pixels.shape[-1] == side:
        return pixels.contiguous()
    return interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)


def _percent(right: Tensor) -> float:
    return 100 * float(right.sum().item()) / len(right)
