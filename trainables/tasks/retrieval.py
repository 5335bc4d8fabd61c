"""Image-text retrieval on Flickr30k: find the image of a caption, and the captions of an image.

The head gives pairs a rank score. It is initialised from the row of the pre-trained matching head
that means "match". UNITER (`train_itm.py`): a true pair must score higher by a margin than the same
text with a false image and the same image with a false text. ViLT (`objectives.py`): the true one
of 16 texts is classified given the image. Hard negatives (UNITER's second trainer) are left out, as
in VLT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.data.batches import text_batch
from trainables.data.schema.examples import Data, Split
from trainables.models.base import Backbone, Encoded
from trainables.seeds import Rng
from trainables.spec import TaskSpec
from trainables.tasks import common, sequences_per_example
from trainables.tasks.base import Batch, Indices, TaskSource
from trainables.tasks.heads import symmetric_kl
from trainables.tasks.negatives import NegativeSampler

MARGIN = 0.2
"""Between the sigmoids of the scores of a true and a false pair (UNITER)."""
MATCH_ROW = 1
"""Row of the pre-trained matching head with the logit of "image and text match"."""
RECALL_DEPTHS = (1, 5, 10)


class RankHead(nn.Module):
    """One score per sequence (S,)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rank_output = nn.Linear(hidden, 1)

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:
        out: Tensor = self.rank_output(encoded.pooled)[:, 0]
        return out


class RetrievalTask(common.PublishedTask):
    """A held-out example is an image with its captions."""

    def __init__(self, data: Data, source: TaskSource, spec: TaskSpec, backbone: Backbone) -> None:
        super().__init__(data, source, spec, backbone)
        self.sequences = sequences_per_example(self.name, self.architecture)
        """Sequences per training example, the true pair first: 3 for UNITER, else 16 texts per
        image."""
        self.eval_images = int(self.options["eval_images"])
        """Number of images in the score matrix; 0 for all."""
        self.negatives = NegativeSampler(data.train)

    @property
    def num_eval(self) -> int:
        images = len(np.unique(self.data.held_out.images))
        return min(self.eval_images or images, images)

    @property
    def prior(self) -> float:
        """Score of random ranking: recall at 1 is 1 / I in both directions, for I images."""
        return 100 / self.num_eval

    def build_head(self, backbone: Backbone) -> nn.Module:
        return RankHead(backbone.hidden_size)

    def init_from_pretrained(
        self, head: dict[str, Tensor], published: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Use the row `MATCH_ROW` of the matching head of UNITER's or ViLT's checkpoint file."""
        for name in ("itm_output", "itm_score.fc"):
            if f"{name}.weight" in published:
                rows = {
                    each: published[f"{name}.{each}"][MATCH_ROW:] for each in ("weight", "bias")
                }
                return {f"rank_output.{each}": value.clone() for each, value in rows.items()}
        return head

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        """Return the examples; the sequences of an example are adjacent."""
        split, examples = self.data.train, indices[:, None]
        images = np.repeat(split.images[examples, 0], self.sequences, axis=1)
        if self._triplets:
            images[:, 1] = self.negatives.sample_images(indices, rng)
            texts = np.hstack([examples, examples, self.negatives.sample_texts(indices, 1, rng)])
        else:
            negatives = self.negatives.sample_texts(indices, self.sequences - 1, rng)
            texts = np.hstack([examples, negatives])
        # Each image is read and padded once, for all texts that it is paired with.
        rows, index = np.unique(images, return_inverse=True)
        batch = self.image_batch(split, rows, rng)
        copies = torch.from_numpy(index.reshape(-1))
        return text_batch(split, texts.reshape(-1)) | {
            name: value[copies] for name, value in batch.items()
        }

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Yield all pairs of the first `examples` held-out images and their captions, `batch_size`
        pairs at a time. A block of images is read once and paired with one or a few captions at a
        time."""
        split = self.data.held_out
        images, texts, _ = gallery(split, min(examples or self.num_eval, self.num_eval))
        # Sorted by length, batches need little padding.
        image_lengths = common.image_lengths(split.image_data, self.patch_size)[images]
        by_size = np.argsort(image_lengths, kind="stable")
        by_length = np.argsort(split.texts.lengths()[texts], kind="stable")
        shape = torch.tensor([len(texts), len(images)])
        for first in range(0, len(images), batch_size):
            block_images = torch.from_numpy(by_size[first : first + batch_size])
            together = max(1, batch_size // len(block_images))
            block = self.image_batch(split, images[block_images.numpy()]) | {"image": block_images}
            if together > 1:
                block = {name: torch.cat([value] * together) for name, value in block.items()}
            for captions in np.split(by_length, range(together, len(texts), together)):
                words = text_batch(split, texts[captions]) | {"caption": torch.from_numpy(captions)}
                count = len(block_images)
                complete = len(captions) == together
                batch = block if complete else _first_rows(block, len(captions) * count)
                yield {name: value.repeat_interleave(count, 0) for name, value in words.items()} | {
                    **batch,
                    "shape": shape,
                }

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        scores = logits.view(-1, self.sequences)
        if not self._triplets:
            return cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64))
        ranks = scores.sigmoid()
        return (MARGIN + ranks[:, 1:] - ranks[:, :1]).clamp(min=0).mean()

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Return the divergence of the choice between the texts; for UNITER, of each pair's choice
        between match and no match."""
        if not self._triplets:
            return symmetric_kl(*(each.view(-1, self.sequences) for each in (clean, perturbed)))
        pairs = (torch.stack([each, torch.zeros_like(each)], -1) for each in (clean, perturbed))
        return symmetric_kl(*pairs)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return the recall at 1, 5 and 10 of images (`ir1`, ...) and texts (`tr1`, ...). `score`
        is the mean of `ir1` and `tr1`, by which ViLT's code selects models. The score matrix has
        one float per pair."""
        matrix = torch.empty(0, 0)
        for logits, batch in scored:
            if not len(matrix):
                matrix = logits.new_empty(batch["shape"].tolist())
            matrix[batch["caption"], batch["image"]] = logits
        owners = gallery(self.data.held_out, matrix.shape[1])[2]
        recalls = recall_at_k(matrix, torch.from_numpy(owners))
        return {"score": (recalls["ir1"] + recalls["tr1"]) / 2} | recalls

    @property
    def _triplets(self) -> bool:
        return self.sequences == 3


open_task = RetrievalTask.open


def gallery(split: Split, count: int) -> tuple[Indices, Indices, Indices]:
    """Select the first `count` images, ordered by their first caption.

    Return the images (I,) as rows of `image_data`; their captions (T,) as rows of `texts`; and for
    each caption (T,) the index of its image among the selected ones.
    """
    _, first, image = np.unique(split.images[:, 0], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    owners = rank[image]
    texts = np.flatnonzero(owners < count)
    return split.images[first[order[:count]], 0].astype(np.int64), texts, owners[texts]


def recall_at_k(matrix: Tensor, owners: Tensor) -> dict[str, float]:
    """Return recalls in percent for a score matrix (T texts, I images); text t belongs to image
    `owners[t]`.

    `irK`: texts whose image is among the K best images; `trK`: images with one of their texts among
    the K best texts. Equal scores count as the average over random orders, so constant scores give
    the recall of chance.
    """
    true = torch.zeros_like(matrix, dtype=torch.bool)
    true[torch.arange(len(owners)), owners] = True
    recalls = {}
    for name, axis in (("ir", 1), ("tr", 0)):
        best = matrix.masked_fill(~true, -torch.inf).amax(dim=axis, keepdim=True)
        above = (matrix > best).sum(dim=axis)
        tied = matrix == best
        true_ties, false_ties = (tied & true).sum(dim=axis), (tied & ~true).sum(dim=axis)
        for depth in RECALL_DEPTHS:
            hit = _hit_probability(true_ties, false_ties, depth - above, depth)
            recalls[f"{name}{depth}"] = 100 * hit.mean().item()
    return recalls


def _hit_probability(true: Tensor, false: Tensor, ranks: Tensor, max_ranks: int) -> Tensor:
    """Return the probability that one of `true` items is among the first `ranks`, at most
    `max_ranks`, of a random order of `true` and `false` items."""
    missed = torch.ones_like(ranks, dtype=torch.float64)
    for rank in range(max_ranks):
        remaining = (true + false - rank).clamp(min=1).double()
        false_next = (false - rank).clamp(min=0) / remaining
        missed *= torch.where(rank < ranks, false_next, 1.0)
    return 1 - missed


def _first_rows(batch: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value[:count] for name, value in batch.items()}
