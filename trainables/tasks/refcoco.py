"""RefCOCO+ (Yu et al. 2016) as in UNITER: which region does the expression refer to?

The model is trained on the annotated boxes of an image, which include the target. It is scored on
detected boxes: the chosen box is correct if its IoU with the target is above one half.

Official code: `model/re.py`, `data/re.py` of UNITER. It sums the loss over the batch of 128; here
the loss is the mean, so gradients are 128 times smaller. AdamW with eps / 128 compensates for that,
and the clipping norm is the published one / 128 (see the recipe).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.data.batches import text_batch
from trainables.data.schema.examples import Regions, Split
from trainables.models.base import Backbone, Encoded
from trainables.seeds import Rng
from trainables.tasks import common
from trainables.tasks.base import Batch, Indices

PADDING_SCORE = -1e4
"""Score of padding in place of a region, as published."""


class RegionScoreHead(nn.Sequential):
    """One score per region (B, N), with parameters named by index as in `re_output`."""

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:  # type: ignore[override]
        out = encoded.image
        for layer in self:
            out = layer(out)
        return out.squeeze(-1).masked_fill(~batch["region_mask"], PADDING_SCORE)


class RefCocoTask(common.PublishedTask):
    """With the option `blind`, features and boxes are zero, so scores of regions differ by rounding
    only."""

    @property
    def prior(self) -> float:
        """Score of a random detected box; without the image, boxes cannot be distinguished."""
        split = self.data.held_out
        boxes = common.image_lengths(split.image_data)[split.images[:, 0]]
        correct = [
            hits(split, rows).sum(dim=1).numpy()
            for rows in common.index_batches(len(split), 0, 1024)
        ]
        return 100 * float(np.mean(np.concatenate(correct) / boxes))

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return RegionScoreHead(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden, eps=1e-12),
            nn.Linear(hidden, 1),
        )

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        split = self.data.train
        labels = split.labels.padded(indices, np.int64)[0][:, 0]
        return self._batch(split, indices) | {"labels": torch.from_numpy(labels)}

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Yield batches with `hits` (B, N), True at the boxes that are correct answers."""
        split = self.data.held_out
        for rows in common.index_batches(len(split), examples, batch_size):
            yield self._batch(split, rows) | {"hits": hits(split, rows)}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return the percentage of expressions whose best box is correct."""
        correct = [
            batch["hits"].gather(1, logits.argmax(dim=1, keepdim=True)) for logits, batch in scored
        ]
        return {"score": 100 * torch.cat(correct).double().mean().item()}

    def _batch(self, split: Split, rows: Indices) -> dict[str, Tensor]:
        return text_batch(split, rows) | self.image_batch(split, split.images[rows, 0])


open_task = RefCocoTask.open


def hits(split: Split, rows: Indices) -> Tensor:
    """Return (B, N) bool, True at regions whose IoU with the target is above one half, for the
    examples `rows` (B,). The split's `scores` are the target's x, y, w, h and the image's width and
    height."""
    assert isinstance(split.image_data, Regions)
    regions = torch.from_numpy(split.image_data.boxes.padded(split.images[rows, 0], np.float64)[0])
    target = torch.from_numpy(split.scores.padded(rows, np.float64)[0])
    # x1, y1, w, h of the published 7 numbers, which are relative to the image's width and height.
    boxes = regions[:, :, [0, 1, 4, 5]] * target[:, None, [4, 5, 4, 5]]
    return box_iou(boxes, target[:, None, :4]) > 0.5


def box_iou(boxes: Tensor, target: Tensor) -> Tensor:
    """Return the intersection over union of boxes x, y, w, h in pixels, as in the official
    evaluation.

    A box covers x to x + w - 1, so 1 is added to the sides of the intersection, but the union uses
    the plain areas. Boxes that share only one row or column of pixels do not intersect.
    """
    first = torch.maximum(boxes[..., :2], target[..., :2])
    ends = [each[..., :2] + each[..., 2:] - 1 for each in (boxes, target)]
    last = torch.minimum(*ends)
    intersects = (first < last).all(dim=-1)
    common_area = torch.where(intersects, (last - first + 1).prod(dim=-1), 0.0)
    union = boxes[..., 2:].prod(dim=-1) + target[..., 2:].prod(dim=-1) - common_area
    return common_area / union
