"""RefCOCO+ (Yu et al. 2016), as UNITER has it: which region does the expression mean?

Trained on the annotated boxes of an image, the target among them; scored on boxes that a detector
found, where the chosen one counts as right if it overlaps the target by more than half.

Official code: `model/re.py`, `data/re.py` of UNITER. It sums the loss over the batch of 128, this
takes the mean, so gradients are 128 times smaller: AdamW undoes that, given eps / 128, and the
clipping norm is the published one / 128 (see the recipe).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data, Regions, Split
from trainables.models.base import Backbone, Encoded
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks import fit
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import symmetric_kl

PADDED = -1e4
"""Score of a region that is padding, as published."""


class RegionScores(nn.Sequential):
    """One score per region (B, N); parameters are named by their place, as in `re_output`."""

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:  # type: ignore[override]
        out = encoded.image
        for layer in self:
            out = layer(out)
        return out.squeeze(-1).masked_fill(~batch["region_mask"], PADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefCoco:
    """Implements `trainables.tasks.base.Task`."""

    data: Data
    blind: bool = False
    """Regions then look alike and lie nowhere, so only rounding tells their scores apart."""

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out)

    @property
    def prior(self) -> float:
        """A detected box drawn at random: without the image, nothing tells them apart."""
        split = self.data.held_out
        boxes = fit.seen_lengths(split.seen)[split.images[:, 0]]
        right = [
            hits(split, rows).sum(dim=1).numpy() for rows in fit.stretches(len(split), 0, 1024)
        ]
        return 100 * float(np.mean(np.concatenate(right) / boxes))

    def lengths(self) -> NDArray[np.int64]:
        return fit.lengths(self.data.train)

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return RegionScores(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden, eps=1e-12),
            nn.Linear(hidden, 1),
        )

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return head

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        split = self.data.train
        labels = split.labels.padded(indices, np.int64)[0][:, 0]
        return self._batch(split, indices) | {"labels": torch.from_numpy(labels)}

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """With `hits` (B, N), True at the boxes that would be right."""
        split = self.data.held_out
        for rows in fit.stretches(len(split), examples, batch_size):
            yield self._batch(split, rows) | {"hits": hits(split, rows)}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Percent of expressions whose best box overlaps the target by more than half."""
        right = [
            batch["hits"].gather(1, logits.argmax(dim=1, keepdim=True)) for logits, batch in scored
        ]
        return {"score": 100 * torch.cat(right).double().mean().item()}

    def _batch(self, split: Split, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        images = image_batch(split.seen, split.images[rows, 0], blind=self.blind)
        return text_batch(split, rows) | images


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> RefCoco:
    return over(fit.read(source, spec, backbone), spec)


def over(data: Data, spec: TaskSpec) -> RefCoco:
    return RefCoco(data=data, blind=bool(fit.options(spec)["blind"]))


def hits(split: Split, rows: NDArray[np.int64]) -> Tensor:
    """(B, N) bool: regions that overlap the target of the examples numbered in `rows` (B,) by more
    than half; the split's `scores` are the target's x, y, w, h and the image's width, height."""
    assert isinstance(split.seen, Regions)
    places = torch.from_numpy(split.seen.boxes.padded(split.images[rows, 0], np.float64)[0])
    target = torch.from_numpy(split.scores.padded(rows, np.float64)[0])
    # x1, y1, w, h of the published 7 numbers, which are over the image's sides.
    boxes = places[:, :, [0, 1, 4, 5]] * target[:, None, [4, 5, 4, 5]]
    return overlap(boxes, target[:, None, :4]) > 0.5


def overlap(boxes: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of boxes x, y, w, h in pixels, as the official evaluation counts it:
    a box covers x to x + w - 1, so 1 is added to the sides of the intersection, but the union is
    that of the plain areas; boxes that meet in one row or column of pixels do not intersect."""
    first = torch.maximum(boxes[..., :2], target[..., :2])
    ends = [each[..., :2] + each[..., 2:] - 1 for each in (boxes, target)]
    last = torch.minimum(*ends)
    meet = (first < last).all(dim=-1)
    met = torch.where(meet, (last - first + 1).prod(dim=-1), 0.0)
    return met / (boxes[..., 2:].prod(dim=-1) + target[..., 2:].prod(dim=-1) - met)
