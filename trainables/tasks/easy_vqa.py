"""easy-VQA as 13-way classification: 38,575 questions to train on, 9,673 held out.

Questions are split into words with task-specific ids, not WordPiece ids. Region models get crops:
the object's box and a grid (see `GRID_SIZE` of `trainables.data.formats.easy_vqa`), standardised
per pixel position by the train split. Pixel models get the image, standardised per channel.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from trainables.data.augmentation.apply import UNCHANGED, Augmentation
from trainables.data.formats import easy_vqa as reader
from trainables.data.reference import DataReference
from trainables.errors import DataError
from trainables.models import Modality
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.spec import TaskSpec
from trainables.tasks import resolve_options
from trainables.tasks.base import Batch, Indices, Task, TaskSource
from trainables.tasks.heads import classifier, symmetric_kl

_KINDS = {
    "yes_no": reader.YES_NO_ANSWERS,
    "shape": reader.SHAPE_ANSWERS,
    "color": reader.COLOR_ANSWERS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Split:
    """Q questions on M images, as tensors; images are uint8 until they are batched."""

    input_ids: Tensor
    """(Q, T) int64."""
    text_mask: Tensor
    """(Q, T) bool."""
    labels: Tensor
    """(Q,) int64."""
    image_index: Tensor
    """(Q,) int64."""
    images: Tensor
    """uint8, channels last: crops (M, N, s * s, 3) or images (M, S, S, 3)."""
    boxes: Tensor | None
    """(M, N, 7) for region models, else None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    train: _Split
    held_out: _Split
    mean: Tensor
    std: Tensor
    """Mean and standard deviation of the train split's bytes: (s * s, 3) for crops, (3,) for
    images."""
    vocab_size: int
    """Number of word ids in use."""
    prior: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EasyVqaTask(Task):
    data: _Data
    input_size: int
    """The model's `region_dim` or `image_size`."""
    augmentation: Augmentation = UNCHANGED

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out.labels)

    @property
    def prior(self) -> float:
        return self.data.prior

    def lengths(self) -> Indices:
        words = self.data.train.text_mask.sum(dim=1).numpy()
        boxes = self.data.train.boxes
        lengths: Indices = words + (boxes.shape[1] if boxes is not None else 0)
        return lengths

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return classifier(hidden, 2 * hidden, len(reader.ALL_ANSWERS))

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        return self._batch(self.data.train, torch.from_numpy(indices), rng)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        limit = min(examples or self.num_eval, self.num_eval)
        for first in range(0, limit, batch_size):
            rows = torch.arange(first, min(first + batch_size, limit))
            yield self._batch(self.data.held_out, rows)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return the accuracy, overall and by kind of answer: yes or no, shape, colour."""
        pairs = [(logits.argmax(dim=-1), batch["labels"]) for logits, batch in scored]
        predictions = torch.cat([answers for answers, _ in pairs])
        labels = torch.cat([labels for _, labels in pairs])
        correct: Tensor = predictions == labels
        scores = {"score": _percent(correct)}
        for kind, answers in _KINDS.items():
            first = reader.ALL_ANSWERS.index(answers[0])
            of_kind = (labels >= first) & (labels < first + len(answers))
            if of_kind.any():
                scores[kind] = _percent(correct[of_kind])
        return scores

    def _batch(self, split: _Split, rows: Tensor, rng: Rng | None = None) -> Batch:
        image = split.image_index[rows]
        images = split.images[image]
        change = self.augmentation.of_batch(rng) if rng is not None else None
        if change is not None:
            pairs = zip(images.permute(0, 3, 1, 2), image.tolist(), strict=True)
            images = torch.stack([change(*pair) for pair in pairs]).permute(0, 2, 3, 1)
        pixels = (images.to(torch.float32) - self.data.mean) / self.data.std
        batch = {
            "input_ids": split.input_ids[rows],
            "text_mask": split.text_mask[rows],
            "labels": split.labels[rows],
        }
        if split.boxes is None:
            return batch | {"pixel_values": _resize(pixels.permute(0, 3, 1, 2), self.input_size)}
        features = pixels.flatten(2)
        missing = self.input_size - features.shape[-1]
        return batch | {
            "region_features": pad(features, (0, missing)),
            "region_boxes": split.boxes[image],
        }


def open_task(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> EasyVqaTask:
    """Open the task; the first call of a process decodes the images in about 2 s."""
    resolve_options(spec)  # it has none
    input_size = backbone.region_dim or backbone.image_size
    reference = source.reference
    data = _load_data(reference, source.cache, spec.data, backbone.modality, input_size)
    tokens = data.train.input_ids.shape[1]
    if data.vocab_size > backbone.vocab_size or tokens > backbone.max_text:
        raise DataError(
            f"{reference}: {data.vocab_size} word ids and {tokens} tokens per question; the model "
            f"takes {backbone.vocab_size} and {backbone.max_text}; raise its vocab_size and "
            "max_position_embeddings"
        )
    return EasyVqaTask(data=data, input_size=input_size, augmentation=source.augmentation)


@lru_cache(maxsize=2)
def _load_data(
    reference: DataReference, cache: Path, planned: str, modality: Modality, input_size: int
) -> _Data:
    reference.check_unchanged(planned, "data")
    folder = reference.local_path(cache)
    train, test = reader.read_questions(folder, "train"), reader.read_questions(folder, "test")
    vocab = reader.build_vocabulary(train.questions)
    train_tensors = _to_tensors(train, vocab, modality, input_size)
    axes = (0, 1) if modality == "regions" else (0, 1, 2)
    images = train_tensors.images.to(torch.float32)
    return _Data(
        train=train_tensors,
        held_out=_to_tensors(test, vocab, modality, input_size),
        mean=images.mean(dim=axes),
        std=images.std(dim=axes).clamp(min=1.0),  # of 255; constant pixels have no information
        vocab_size=reader.SEP_ID + 1 + len(vocab),
        prior=question_prior(train, test),
    )


def question_prior(train: reader.QuestionSplit, test: reader.QuestionSplit) -> float:
    """Return the accuracy on `test`, in percent, of predicting the most frequent answer of the
    question's text in `train`, or the most frequent answer of all for an unknown text."""
    answers: list[int] = train.answers.tolist()
    targets: list[int] = test.answers.tolist()
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for question, answer in zip(train.questions, answers, strict=True):
        counts[question][answer] += 1
    overall = Counter(answers)
    predictions = [counts.get(text, overall).most_common(1)[0][0] for text in test.questions]
    return 100 * sum(a == b for a, b in zip(predictions, targets, strict=True)) / len(targets)


def _to_tensors(
    split: reader.QuestionSplit, vocab: dict[str, int], modality: Modality, input_size: int
) -> _Split:
    ids, mask = reader.encode_questions(split.questions, vocab)
    if modality == "pixels":
        images, boxes = reader.shrink(split.images, input_size), None
    else:
        regions = reader.region_boxes(split.images)
        images = reader.crops(split.images, regions, input_size)
        boxes = torch.from_numpy(reader.normalised_boxes(regions, split.images.shape[1]))
    return _Split(
        input_ids=torch.from_numpy(ids),
        text_mask=torch.from_numpy(mask),
        labels=torch.from_numpy(split.answers),
        image_index=torch.from_numpy(split.image),
        images=torch.from_numpy(images),
        boxes=boxes,
    )


def _resize(pixels: Tensor, side: int) -> Tensor:
    """Resize (B, 3, S, S) -> (B, 3, side, side). This is done per batch, because 5,000 images at
    384 px would take 8.8 GB."""
    if pixels.shape[-1] == side:
        return pixels.contiguous()
    return interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)


def _percent(correct: Tensor) -> float:
    return 100 * float(correct.sum().item()) / len(correct)
