"""UNITER's pre-training (Chen et al. 2020, section 3.2): words, regions and pairs of images and
captions.

Each optimizer step has one objective, drawn in the proportions of the option `objectives`; all its
micro-batches share it.

* `mlm`: predict 15 % of the words, all regions seen.
* `mrfr`: predict the features of 15 % of the regions, all words seen; squared error.
* `mrc_kl`: predict the detector's class probabilities of such regions; KL(detector || prediction).
* `itm`: does the caption belong to the image? Half the images are replaced. With word-region
  alignment: the cost of moving the words onto the regions, low for true pairs, high for false.

Official code: `pretrain.py`, `model/pretrain.py`, `data/{mlm,mrm,itm}.py` of UNITER. It draws a
corpus with the objective, in the proportions 2 : 3 : 3 : 2 of COCO, VG, CC and SBU; here a batch
holds examples of any, by their numbers, and a false image comes from any too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data, Ragged, Regions, Split
from trainables.errors import CheckpointError, DataError, TrainableError
from trainables.models.base import Backbone
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks import fit
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import symmetric_kl
from trainables.tasks.masking import mask_regions, mask_words
from trainables.tasks.negatives import Negatives
from trainables.tasks.objectives import OBJECTIVES, objective_of
from trainables.tasks.pretraining_head import PretrainingHead

FALSE_SHARE = 0.5
"""Of the images of an `itm` batch."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Implements `trainables.tasks.base.Task`."""

    data: Data
    mixture: Mapping[str, int]
    """Objective -> its share of the steps, in whole numbers."""
    train_pairs: Negatives
    held_out_pairs: Negatives
    blind: bool = False
    """Regions then say nothing, but are still to be predicted."""

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out)

    @property
    def prior(self) -> float:
        """Of all words held out, the share of the one that is most frequent in training: nearly
        what it would win among those that are drawn."""
        words = self.data.vocabulary
        train, held_out = (
            _word_counts(split.texts, words.first, words.size)
            for split in (self.data.train, self.data.held_out)
        )
        return 100 * float(held_out[train.argmax()] / held_out.sum())

    def lengths(self) -> Rows:
        """A false image may be longer than the true one; `itm` batches may then exceed
        `Recipe.tokens` by a little."""
        return fit.lengths(self.data.train)

    def build_head(self, backbone: Backbone) -> nn.Module:
        assert isinstance(self.data.train.seen, Regions)
        classes = self.data.train.seen.classes
        return PretrainingHead(
            backbone, self.mixture, classes.width[0] if classes is not None else 0
        )

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that the checkpoint file has; BERT's has the head of `mlm` only."""
        found = {name: published[name] for name in head if name in published}
        for name, value in found.items():
            if value.shape != head[name].shape:
                raise CheckpointError(
                    f"pre-training head: {name} {tuple(value.shape)} in the checkpoint, "
                    f"{tuple(head[name].shape)} here; give data with the same detector classes"
                )
        return head | found

    def train_batch(self, indices: Rows, chance: Chance) -> Batch:
        names, weights = list(self.mixture), list(self.mixture.values())
        drawn = int(chance.outer().below(sum(weights)))
        objective = names[int(np.searchsorted(np.cumsum(weights), drawn, side="right"))]
        return self._batch(objective, self.data.train, self.train_pairs, indices, chance)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Each run of examples once per objective; what is masked and replaced never changes."""
        split = self.data.held_out
        for rows in fit.stretches(len(split), examples, batch_size):
            for name in self.mixture:
                chance = Chance("held out", name, int(rows[0]))
                yield self._batch(name, split, self.held_out_pairs, rows, chance)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        objective = OBJECTIVES[objective_of(batch)]
        return objective.loss(logits, batch[objective.targets])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """`mrfr` predicts no distribution: taken as the mean of a Gaussian of unit variance, its
        symmetric KL is the squared distance, here the mean over elements as in its loss."""
        objective = objective_of(batch)
        if objective == "mrfr":
            return mse_loss(perturbed, clean)
        if objective == "itm":
            clean, perturbed = clean[:, :2], perturbed[:, :2]
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """`score`: percent of the masked words predicted; `itm`: percent of pairs judged right.
        Losses, the lower the better: `mrfr` per element and `mrc_kl` in nats per region."""
        totals = {name: np.zeros(2) for name in self.mixture}
        for logits, batch in scored:
            name = objective_of(batch)
            totals[name] += OBJECTIVES[name].measure(logits, batch[OBJECTIVES[name].targets])
        means = {name: float(total / count) for name, (total, count) in totals.items()}
        return {"score": means.pop("mlm")} | means

    def _batch(
        self, objective: str, split: Split, pairs: Negatives, rows: Rows, chance: Chance
    ) -> Batch:
        images = split.images[rows, 0].astype(np.int64)
        batch = text_batch(split, rows)
        if objective == "mlm":
            batch |= self._words(batch, chance)
        if objective == "itm":
            false = chance.uniform(len(rows)) < FALSE_SHARE
            images = np.where(false, pairs.images(rows, chance), images)
            batch["matched"] = torch.from_numpy((~false).astype(np.int64))
        batch |= image_batch(split.seen, images)
        if objective in ("mrfr", "mrc_kl"):
            batch |= _regions(objective, split, batch, images, chance)
        if self.blind:
            batch |= {name: torch.zeros_like(batch[name]) for name in _SEEN}
        return batch

    def _words(self, batch: Batch, chance: Chance) -> dict[str, Tensor]:
        ids, text = batch["input_ids"].numpy(), batch["text_mask"].numpy()
        shown, hidden = mask_words(ids, text, self.data.vocabulary, chance)
        return {
            "input_ids": torch.from_numpy(shown),
            "places": torch.from_numpy(np.flatnonzero(hidden)),
            "word_labels": torch.from_numpy(ids[hidden]),
        }


_SEEN = ("region_features", "region_boxes")


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Pretraining:
    return over(fit.read(source, spec, backbone), spec)


def over(data: Data, spec: TaskSpec) -> Pretraining:
    options = fit.options(spec)
    mixture = parse_mixture(str(options["objectives"]))
    for split in (data.train, data.held_out):
        if "mrc_kl" in mixture and getattr(split.seen, "classes", None) is None:
            raise DataError(
                "pretraining: no class probabilities beside the region features, which mrc_kl "
                "needs; take it out of the option objectives"
            )
    return Pretraining(
        data=data,
        mixture=mixture,
        train_pairs=Negatives(data.train),
        held_out_pairs=Negatives(data.held_out),
        blind=bool(options["blind"]),
    )


def parse_mixture(objectives: str) -> dict[str, int]:
    """`itm:6,mlm:8` as a mapping. TrainableError if it is none, or lacks `mlm`, the score."""
    try:
        pairs = [part.split(":") for part in objectives.replace(" ", "").split(",")]
        mixture = {name: int(share) for name, share in pairs}
    except ValueError:
        mixture = {}
    known = len(mixture) == objectives.count(",") + 1 and mixture.keys() <= OBJECTIVES.keys()
    if not known or min(mixture.values()) < 1 or "mlm" not in mixture:
        raise TrainableError(
            f"task pretraining: objectives = {objectives!r}; give some of "
            f"{', '.join(OBJECTIVES)}, with mlm, once each, as in 'itm:6,mlm:8'"
        )
    return mixture


def _regions(
    objective: str, split: Split, batch: Batch, images: Rows, chance: Chance
) -> dict[str, Tensor]:
    """The batch's features with some regions hidden, and what those are to be predicted as."""
    assert isinstance(split.seen, Regions)
    hidden = mask_regions(batch["region_mask"].numpy(), chance)
    mask = torch.from_numpy(hidden)
    features = batch["region_features"]
    if objective == "mrfr":
        targets = {"feature_targets": features[mask]}
    else:
        assert split.seen.classes is not None
        classes = zip(split.seen.classes.rows(images), hidden, strict=True)
        found = [each[drawn[: len(each)]] for each, drawn in classes]
        targets = {"class_targets": torch.from_numpy(np.concatenate(found).astype(np.float32))}
    return targets | {
        "region_features": features.masked_fill(mask[:, :, None], 0.0),
        "masked_regions": mask,
        "places": torch.from_numpy(np.flatnonzero(hidden)),
    }


def _word_counts(texts: Ragged, first: int, size: int) -> NDArray[np.int64]:
    """(size,) how often each word id occurs, ids below `first` (special tokens) not counted."""
    counts = np.zeros(size, np.int64)
    for values, offsets in zip(texts.values, texts.offsets, strict=True):
        counts += np.bincount(values[offsets[0] : offsets[-1]], minlength=size)
    counts[:first] = 0
    return counts
