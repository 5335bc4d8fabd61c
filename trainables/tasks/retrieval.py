"""Image-text retrieval on Flickr30k: which image does a caption mean, and which captions an image?

A rank score is learnt for pairs, from the row of the pre-trained matching head that stands for
"they match". UNITER (`train_itm.py`): a true pair beats the same text with a false image and the
same image with a false text by a margin. ViLT (`objectives.py`): of an image and 16 texts, the true
one is chosen. Hard negatives (UNITER's second trainer) are left out, as in VLT.
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
from trainables.data.schema.examples import Data, Split
from trainables.errors import TrainableError
from trainables.models.base import Backbone, Encoded
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks import TASKS, fit
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import symmetric_kl
from trainables.tasks.negatives import Negatives

MARGIN = 0.2
"""Between the sigmoids of the scores of a true and a false pair (UNITER)."""
TRUE = 1
"""Row of the pre-trained matching head whose logit says that image and text match."""
DEPTHS = (1, 5, 10)

Rows = NDArray[np.int64]


class RankScore(nn.Module):
    """One score per sequence (S,)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rank_output = nn.Linear(hidden, 1)

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:
        out: Tensor = self.rank_output(encoded.pooled)[:, 0]
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """Implements `trainables.tasks.base.Task`; a held-out example is an image with its captions."""

    data: Data
    negatives: Negatives
    """Of the train split."""
    sequences: int
    """Per training example, the true pair first: 3 in UNITER's form, else 16 texts of an image."""
    patch: int = 0
    blind: bool = False
    eval_images: int = 0
    """Score a smaller matrix, of the first so many images; 0 takes all."""

    @property
    def num_eval(self) -> int:
        images = len(np.unique(self.data.held_out.images))
        return min(self.eval_images or images, images)

    @property
    def prior(self) -> float:
        """Chance: of I images, 1 / I for either direction's first place."""
        return 100 / self.num_eval

    def lengths(self) -> Rows:
        return fit.lengths(self.data.train, self.patch)

    def build_head(self, backbone: Backbone) -> nn.Module:
        return RankScore(backbone.hidden_size)

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The row `TRUE` of the matching head of UNITER's or ViLT's checkpoint file."""
        for name in ("itm_output", "itm_score.fc"):
            if f"{name}.weight" in published:
                rows = {each: published[f"{name}.{each}"][TRUE:] for each in ("weight", "bias")}
                return {f"rank_output.{each}": value.clone() for each, value in rows.items()}
        return head

    def train_batch(self, indices: Rows, chance: Chance) -> Batch:
        """An example's sequences lie together."""
        split, own = self.data.train, indices[:, None]
        images = np.repeat(split.images[own, 0], self.sequences, axis=1)
        if self._triplets:
            images[:, 1] = self.negatives.images(indices, chance)
            texts = np.hstack([own, own, self.negatives.texts(indices, 1, chance)])
        else:
            false = self.negatives.texts(indices, self.sequences - 1, chance)
            texts = np.hstack([own, false])
        # An image is read and padded once, however many texts it meets.
        rows, place = np.unique(images, return_inverse=True)
        seen = self._seen(split, rows)
        where = torch.from_numpy(place.reshape(-1))
        return text_batch(split, texts.reshape(-1)) | {
            name: value[where] for name, value in seen.items()
        }

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """The first `examples` held-out images against all captions of theirs, `batch_size` pairs
        at a time. A block of images is read once and meets one text, or a few, after another."""
        split = self.data.held_out
        images, texts, _ = gallery(split, min(examples or self.num_eval, self.num_eval))
        # Alike in length, neighbours need little padding.
        by_size = np.argsort(fit.seen_lengths(split.seen, self.patch)[images], kind="stable")
        by_length = np.argsort(split.texts.lengths()[texts], kind="stable")
        shape = torch.tensor([len(texts), len(images)])
        for first in range(0, len(images), batch_size):
            places = torch.from_numpy(by_size[first : first + batch_size])
            block = self._seen(split, images[places.numpy()])
            together = max(1, batch_size // len(places))
            whole = block | {"image": places}
            if together > 1:
                whole = {name: torch.cat([value] * together) for name, value in whole.items()}
            for some in np.split(by_length, range(together, len(texts), together)):
                words = text_batch(split, texts[some]) | {"caption": torch.from_numpy(some)}
                each = len(places)
                seen = whole if len(some) == together else _cut(whole, len(some) * each)
                yield {name: value.repeat_interleave(each, 0) for name, value in words.items()} | {
                    **seen,
                    "shape": shape,
                }

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        scores = logits.view(-1, self.sequences)
        if not self._triplets:
            return cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64))
        ranks = scores.sigmoid()
        return (MARGIN + ranks[:, 1:] - ranks[:, :1]).clamp(min=0).mean()

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Of the choice between the texts; in UNITER's form each pair is a match or none."""
        if not self._triplets:
            return symmetric_kl(*(each.view(-1, self.sequences) for each in (clean, perturbed)))
        pairs = (torch.stack([each, torch.zeros_like(each)], -1) for each in (clean, perturbed))
        return symmetric_kl(*pairs)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Recall at 1, 5 and 10 of images (`ir1`, ...) and texts (`tr1`, ...); `score` is the mean
        of `ir1` and `tr1`, by which ViLT's code chooses. One float per pair is kept."""
        matrix = torch.empty(0, 0)
        for logits, batch in scored:
            if not len(matrix):
                matrix = logits.new_empty(batch["shape"].tolist())
            matrix[batch["caption"], batch["image"]] = logits
        owners = gallery(self.data.held_out, matrix.shape[1])[2]
        found = recalls(matrix, torch.from_numpy(owners))
        return {"score": (found["ir1"] + found["tr1"]) / 2} | found

    @property
    def _triplets(self) -> bool:
        return self.sequences == 3

    def _seen(self, split: Split, rows: Rows) -> dict[str, Tensor]:
        return image_batch(split.seen, rows, patch=self.patch, blind=self.blind)


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Retrieval:
    return over(fit.read(source, spec, backbone), spec, backbone)


def over(data: Data, spec: TaskSpec, backbone: Backbone) -> Retrieval:
    options = fit.options(spec)
    if int(options["eval_images"]) < 0:
        raise TrainableError(
            f"task retrieval: eval_images = {options['eval_images']}; use 0 (all) or more"
        )
    return Retrieval(
        data=data,
        negatives=Negatives(data.train),
        sequences=TASKS["retrieval"].sequences[backbone.architecture],
        patch=backbone.patch_size,
        blind=bool(options["blind"]),
        eval_images=int(options["eval_images"]),
    )


def gallery(split: Split, count: int) -> tuple[Rows, Rows, Rows]:
    """The first `count` images by their first caption (I,), as rows of `seen`; their captions (T,),
    as rows of `texts`; and for each caption the place (T,) of its image among the first."""
    _, first, place = np.unique(split.images[:, 0], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    owners = rank[place]
    texts = np.flatnonzero(owners < count)
    return split.images[first[order[:count]], 0].astype(np.int64), texts, owners[texts]


def recalls(matrix: Tensor, owners: Tensor) -> dict[str, float]:
    """Percent of a score matrix (T texts, I images) whose text t belongs to image `owners[t]`.

    `irK`: texts whose image is among the K best images; `trK`: images with a text of theirs among
    the K best texts. Equal scores count as they would on average in a random order: a model that
    says nothing gains nothing.
    """
    mine = torch.zeros_like(matrix, dtype=torch.bool)
    mine[torch.arange(len(owners)), owners] = True
    found = {}
    for name, axis in (("ir", 1), ("tr", 0)):
        best = matrix.masked_fill(~mine, -torch.inf).amax(dim=axis, keepdim=True)
        above = (matrix > best).sum(dim=axis)
        level = matrix == best
        own, others = (level & mine).sum(dim=axis), (level & ~mine).sum(dim=axis)
        for depth in DEPTHS:
            hit = _among_first(own, others, depth - above, depth)
            found[f"{name}{depth}"] = 100 * hit.mean().item()
    return found


def _among_first(own: Tensor, others: Tensor, places: Tensor, most: int) -> Tensor:
    """Probability that one of `own` is among the first `places`, at most `most`, when they and the
    `others` stand in a random order."""
    missed = torch.ones_like(places, dtype=torch.float64)
    for place in range(most):
        left = (own + others - place).clamp(min=1).double()
        other = (others - place).clamp(min=0) / left
        missed *= torch.where(place < places, other, 1.0)
    return 1 - missed


def _cut(batch: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value[:count] for name, value in batch.items()}
