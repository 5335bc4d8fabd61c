"""VCR (Zellers et al. 2019): choose an answer (Q->A), then the rationale of the right one (QA->R).

Each of the four choices is a separate sequence with a right-or-wrong head (UNITER, section 4.1; its
code, `model/vcr.py`). The prediction is the choice with the highest logit of "right". Answer and
rationale must both be right: `score` is Q->AR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from trainables.data.batches import text_batch
from trainables.data.schema.examples import Data, Split
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.spec import TaskSpec
from trainables.tasks import common
from trainables.tasks.base import Batch, Indices, TaskSource
from trainables.tasks.heads import PooledHead, symmetric_kl
from trainables.tasks.prior import flatten_rows, number_texts

_NUM_CHOICES = 4
_NUM_SUBTASKS = 2
"""Each record has two subtasks, Q->A and QA->R."""


class VcrTask(common.PublishedTask):
    """A training example is one subtask of a record: number 2r is record r's Q->A, 2r + 1 its
    QA->R, without those of which the texts are too long to train on (`Split.scores` is 0 there). A
    held-out example is a record."""

    def __init__(self, data: Data, source: TaskSource, spec: TaskSpec, backbone: Backbone) -> None:
        super().__init__(data, source, spec, backbone)
        self._trained: Indices = np.flatnonzero(flatten_rows(data.train.scores))
        """Numbers of the subtasks to train on."""

    @property
    def prior(self) -> float:
        """Score of choosing by how often the exact text of a choice was right in training; an
        unknown text counts as right in 1 of 4 cases."""
        train, held_out = self.data.train, self.data.held_out
        texts, queries = number_texts(train.texts, held_out.texts)
        texts = texts.reshape(-1, _NUM_CHOICES)[self._trained].reshape(-1)
        labels = _targets(train, np.arange(len(train))).flatten()[torch.from_numpy(self._trained)]
        right = one_hot(labels, _NUM_CHOICES).flatten().numpy()
        size = 1 + max(texts.max(), queries.max())
        count = np.bincount(texts, minlength=size)
        share = np.full(size, 1 / _NUM_CHOICES)
        np.divide(np.bincount(texts, right, minlength=size), count, out=share, where=count > 0)
        guesses = share[queries].reshape(-1, _NUM_SUBTASKS, _NUM_CHOICES).argmax(axis=-1)
        targets = _targets(held_out, np.arange(len(held_out))).numpy()
        return 100 * float((guesses == targets).all(axis=1).mean())

    def lengths(self) -> Indices:
        """Return the length of the longest of the four sequences."""
        train = self.data.train
        words = train.texts.lengths().reshape(-1, _NUM_CHOICES).max(axis=1)
        return self._with_regions(words)

    def uniter_lengths(self) -> Indices:
        """Return the lengths of the words that the authors' files list (see
        `trainables.data.formats.uniter.lmdb.vcr_lengths`), about those of all four sequences, plus
        the regions once (`VcrDetectFeatTxtTokDataset` in UNITER's `data/vcr.py`).

        They are computed from the texts; the files decide only which examples are trained on.
        """
        train = self.data.train
        records = np.arange(len(train))
        sequences = train.texts.lengths().reshape(-1, _NUM_SUBTASKS, _NUM_CHOICES)
        # [CLS] question [SEP] answer [SEP], and for QA->R also rationale [SEP]
        right = sequences[records, 0, _targets(train, records)[:, 0].numpy()]
        question_answer = sequences[:, 0].max(axis=1) - 3
        rationale = sequences[:, 1].max(axis=1) - right - 1
        q_a = _NUM_CHOICES * question_answer
        return self._with_regions(np.stack([q_a, q_a + rationale], axis=1).reshape(-1))

    def _with_regions(self, words: Indices) -> Indices:
        """Return the lengths of the subtasks to train on, given the words of all."""
        train = self.data.train
        regions = common.image_lengths(train.image_data)[train.images[:, 0]]
        lengths: Indices = words + np.repeat(regions, _NUM_SUBTASKS)
        return lengths[self._trained]

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        wide = 2 * hidden
        return PooledHead(
            nn.Linear(hidden, wide), nn.ReLU(), nn.LayerNorm(wide, eps=1e-12), nn.Linear(wide, 2)
        )

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        return self._batch(self.data.train, self._trained[indices])

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Yield batches of `batch_size` sequences; the two subtasks of a record are adjacent."""
        per_record = _NUM_SUBTASKS * _NUM_CHOICES
        for records in common.index_batches(
            self.num_eval, examples, max(1, batch_size // per_record)
        ):
            subtasks = _NUM_SUBTASKS * records[:, None] + np.arange(_NUM_SUBTASKS)
            yield self._batch(self.data.held_out, subtasks.reshape(-1))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of right and wrong, mean over the choices."""
        return cross_entropy(logits, one_hot(batch["labels"], _NUM_CHOICES).flatten())

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Return the divergence, mean over the choices. VILLA's is half of it, because it also
        averages over right and wrong."""
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return Q->AR, both subtasks right, as `score`, and each subtask as `q_a` and `qa_r`."""
        right = [
            logits[:, 1].view(-1, _NUM_CHOICES).argmax(dim=-1) == batch["labels"]
            for logits, batch in scored
        ]
        both = torch.cat(right).view(-1, _NUM_SUBTASKS)
        q_a, qa_r = (100 * both.double().mean(dim=0)).tolist()
        return {
            "score": 100 * both.all(dim=1).double().mean().item(),
            "q_a": q_a,
            "qa_r": qa_r,
        }

    def _batch(self, split: Split, subtasks: Indices) -> Batch:
        records, which = np.divmod(subtasks, _NUM_SUBTASKS)
        texts = _NUM_CHOICES * subtasks[:, None] + np.arange(_NUM_CHOICES)
        batch = text_batch(split, texts.reshape(-1))
        images = self.image_batch(split, split.images[records, 0])
        batch |= {name: value.repeat_interleave(_NUM_CHOICES, 0) for name, value in images.items()}
        labels = _targets(split, records)[torch.arange(len(records)), torch.from_numpy(which)]
        return batch | {"labels": labels}


def _targets(split: Split, records: Indices) -> Tensor:
    """Return (records, 2) int64: the right answer and the right rationale, 0 to 3 each."""
    return torch.from_numpy(np.stack(split.labels.rows(records))).long()


open_task = VcrTask.open
