"""UNITER's pre-training (Chen et al. 2020, section 3.2) on images and captions.

Each optimizer step has one objective, drawn in the proportions of the option `objectives`; all its
micro-batches share it.

* `mlm`: predict 15 % masked words from the other words and all regions.
* `mrfr`: predict the features of 15 % masked regions from the rest; squared error.
* `mrc_kl`: predict the detector's class probabilities of masked regions; KL(detector ||
  prediction).
* `itm`: does the caption belong to the image? Half of the images are replaced. The loss includes
  word-region alignment: the cost of transporting the words to the regions is minimised for true
  pairs and maximised for false ones.

Official code: `pretrain.py`, `model/pretrain.py`, `data/{mlm,mrm,itm}.py` of UNITER. It also draws
a corpus per step, in the proportions 2 : 3 : 3 : 2 of COCO, VG, CC and SBU. Here a batch mixes
examples of all corpora in proportion to their sizes, and a negative image may be from any corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data, Ragged, Regions, Split
from trainables.errors import CheckpointError, DataError
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.spec import TaskSpec
from trainables.tasks import common
from trainables.tasks.base import Batch, Indices, TaskSource
from trainables.tasks.heads import symmetric_kl
from trainables.tasks.masking import mask_regions, mask_words
from trainables.tasks.mixture import parse_mixture
from trainables.tasks.negatives import NegativeSampler
from trainables.tasks.objectives import OBJECTIVES, pretraining_objective
from trainables.tasks.pretraining_head import PretrainingHead

NEGATIVE_RATE = 0.5
"""Share of the images of an `itm` batch that are replaced by negatives."""


class PretrainingTask(common.PublishedTask):
    """Lengths count each example's true image. A negative image may have more regions, so `itm`
    batches may slightly exceed `Recipe.tokens`."""

    def __init__(self, data: Data, source: TaskSource, spec: TaskSpec, backbone: Backbone) -> None:
        super().__init__(data, source, spec, backbone)
        self.mixture = parse_mixture(str(self.options["objectives"]))
        """Objective -> its relative share of the steps, an integer."""
        for split in (data.train, data.held_out):
            if "mrc_kl" in self.mixture and getattr(split.image_data, "classes", None) is None:
                raise DataError(
                    "pretraining: the data have no class probabilities of regions, which mrc_kl "
                    "needs; remove mrc_kl from the option objectives"
                )
        self.train_negatives = NegativeSampler(data.train)
        self.held_out_negatives = NegativeSampler(data.held_out)

    @property
    def prior(self) -> float:
        """The share, among all held-out words, of the word that is most frequent in training. It is
        close to the accuracy of always predicting that word for the masked ones."""
        words = self.data.vocabulary
        train, held_out = (
            _word_counts(split.texts, words.first, words.size)
            for split in (self.data.train, self.data.held_out)
        )
        return 100 * float(held_out[train.argmax()] / held_out.sum())

    def build_head(self, backbone: Backbone) -> nn.Module:
        assert isinstance(self.data.train.image_data, Regions)
        classes = self.data.train.image_data.classes
        return PretrainingHead(
            backbone, self.mixture, classes.width[0] if classes is not None else 0
        )

    def init_from_pretrained(
        self, head: dict[str, Tensor], published: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Use all heads that the checkpoint file has; BERT's file has the head of `mlm` only."""
        loaded = {name: published[name] for name in head if name in published}
        for name, value in loaded.items():
            if value.shape != head[name].shape:
                raise CheckpointError(
                    f"pre-training head: {name} {tuple(value.shape)} in the checkpoint, "
                    f"{tuple(head[name].shape)} here; give data with the same detector classes"
                )
        return head | loaded

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        names, weights = list(self.mixture), list(self.mixture.values())
        drawn = int(rng.parent().integers(sum(weights)))
        objective = names[int(np.searchsorted(np.cumsum(weights), drawn, side="right"))]
        return self._batch(objective, self.data.train, self.train_negatives, indices, rng)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Yield each group of examples once per objective. Masks and negatives never change."""
        split = self.data.held_out
        for rows in common.index_batches(len(split), examples, batch_size):
            for name in self.mixture:
                rng = Rng("held out", name, int(rows[0]))
                yield self._batch(name, split, self.held_out_negatives, rows, rng)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        objective = OBJECTIVES[pretraining_objective(batch)]
        return objective.loss(logits, batch[objective.targets])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Return the symmetric KL divergence. `mrfr` does not predict a distribution: its
        prediction is taken as the mean of a Gaussian of unit variance. The symmetric KL is then the
        squared distance, here averaged over elements as in its loss."""
        objective = pretraining_objective(batch)
        if objective == "mrfr":
            return mse_loss(perturbed, clean)
        if objective == "itm":
            clean, perturbed = clean[:, :2], perturbed[:, :2]
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return `score`, the accuracy on masked words in percent, and `itm`, the accuracy on pairs
        in percent. `mrfr` (per element) and `mrc_kl` (nats per region) are losses: lower is better.
        """
        totals = {name: np.zeros(2) for name in self.mixture}
        for logits, batch in scored:
            name = pretraining_objective(batch)
            totals[name] += OBJECTIVES[name].measure(logits, batch[OBJECTIVES[name].targets])
        means = {name: float(total / count) for name, (total, count) in totals.items()}
        return {"score": means.pop("mlm")} | means

    def _batch(
        self, objective: str, split: Split, negatives: NegativeSampler, rows: Indices, rng: Rng
    ) -> Batch:
        images = split.images[rows, 0].astype(np.int64)
        batch = text_batch(split, rows)
        if objective == "mlm":
            batch |= self._mask_words(batch, rng)
        if objective == "itm":
            replaced = rng.uniform(len(rows)) < NEGATIVE_RATE
            images = np.where(replaced, negatives.sample_images(rows, rng), images)
            batch["matched"] = torch.from_numpy((~replaced).astype(np.int64))
        batch |= image_batch(split.image_data, images)
        if objective in ("mrfr", "mrc_kl"):
            batch |= _mask_regions(objective, split, batch, images, rng)
        if self.blind:  # the targets of masked regions stay
            batch |= {name: torch.zeros_like(batch[name]) for name in _IMAGE_INPUTS}
        return batch

    def _mask_words(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        ids, text_mask = batch["input_ids"].numpy(), batch["text_mask"].numpy()
        masked_ids, masked = mask_words(ids, text_mask, self.data.vocabulary, rng)
        return {
            "input_ids": torch.from_numpy(masked_ids),
            "masked_positions": torch.from_numpy(np.flatnonzero(masked)),
            "word_labels": torch.from_numpy(ids[masked]),
        }


_IMAGE_INPUTS = ("region_features", "region_boxes")


open_task = PretrainingTask.open


def _mask_regions(
    objective: str, split: Split, batch: Batch, images: Indices, rng: Rng
) -> dict[str, Tensor]:
    """Return the batch's features with some regions masked, and the targets of these regions."""
    assert isinstance(split.image_data, Regions)
    masked = mask_regions(batch["region_mask"].numpy(), rng)
    mask = torch.from_numpy(masked)
    features = batch["region_features"]
    if objective == "mrfr":
        targets = {"feature_targets": features[mask]}
    else:
        assert split.image_data.classes is not None
        rows = zip(split.image_data.classes.rows(images), masked, strict=True)
        classes = [probabilities[row[: len(probabilities)]] for probabilities, row in rows]
        targets = {"class_targets": torch.from_numpy(np.concatenate(classes).astype(np.float32))}
    return targets | {
        "region_features": features.masked_fill(mask[:, :, None], 0.0),
        "masked_regions": mask,
        "masked_positions": torch.from_numpy(np.flatnonzero(masked)),
    }


def _word_counts(texts: Ragged, first: int, size: int) -> NDArray[np.int64]:
    """Count how often each word id occurs (size,); ids below `first` (special tokens) count 0."""
    counts = np.zeros(size, np.int64)
    for values, offsets in zip(texts.values, texts.offsets, strict=True):
        counts += np.bincount(values[offsets[0] : offsets[-1]], minlength=size)
    counts[:first] = 0
    return counts
