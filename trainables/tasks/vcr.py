"""VCR (Zellers et al. 2019): choose an answer (Q->A), then the reason for the right one (QA->R).

Each of the four choices is a sequence of its own with a right-or-wrong head (UNITER, section 4.1;
its code, `model/vcr.py`); the choice taken is the one with the highest logit of "right". An answer
and its reason count together: `score` is Q->AR.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data, Split
from trainables.models.base import Backbone
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks import fit
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import PooledHead, symmetric_kl
from trainables.tasks.prior import numbered

CHOICES = 4
PROBLEMS = 2
"""Q->A and QA->R of a record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """Implements `trainables.tasks.base.Task`. A training example is one problem of a record:
    number 2r is record r's Q->A, 2r + 1 its QA->R. A held-out example is a record."""

    data: Data
    blind: bool

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out)

    @property
    def prior(self) -> float:
        """By how often the exact text of each choice was right; one never met counts 1 in 4."""
        train, held_out = self.data.train, self.data.held_out
        texts, asked = numbered(train.texts, held_out.texts)
        right = one_hot(_targets(train, np.arange(len(train))), CHOICES).flatten().numpy()
        size = 1 + max(texts.max(), asked.max())
        met = np.bincount(texts, minlength=size)
        share = np.full(size, 1 / CHOICES)
        np.divide(np.bincount(texts, right, minlength=size), met, out=share, where=met > 0)
        guesses = share[asked].reshape(-1, PROBLEMS, CHOICES).argmax(axis=-1)
        wanted = _targets(held_out, np.arange(len(held_out))).numpy()
        return 100 * float((guesses == wanted).all(axis=1).mean())

    def lengths(self) -> NDArray[np.int64]:
        """Of the longest of the four sequences; UNITER's batches, too, count one of them."""
        train = self.data.train
        words = train.texts.lengths().reshape(-1, CHOICES).max(axis=1)
        seen = fit.seen_lengths(train.seen)[train.images[:, 0]]
        longest: NDArray[np.int64] = words + np.repeat(seen, PROBLEMS)
        return longest

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        wide = 2 * hidden
        return PooledHead(
            nn.Linear(hidden, wide), nn.ReLU(), nn.LayerNorm(wide, eps=1e-12), nn.Linear(wide, 2)
        )

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return head

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        return self._batch(self.data.train, indices)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """`batch_size` sequences each, both problems of a record next to each other."""
        per_record = PROBLEMS * CHOICES
        for records in fit.stretches(self.num_eval, examples, max(1, batch_size // per_record)):
            problems = PROBLEMS * records[:, None] + np.arange(PROBLEMS)
            yield self._batch(self.data.held_out, problems.reshape(-1))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Over right and wrong, mean over the choices."""
        return cross_entropy(logits, one_hot(batch["labels"], CHOICES).flatten())

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Mean over the choices. VILLA's is half of it: it averages over right and wrong too."""
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Q->AR, both right; `q_a` and `qa_r` alone."""
        right = [
            logits[:, 1].view(-1, CHOICES).argmax(dim=-1) == batch["labels"]
            for logits, batch in scored
        ]
        both = torch.cat(right).view(-1, PROBLEMS)
        q_a, qa_r = (100 * both.double().mean(dim=0)).tolist()
        return {
            "score": 100 * both.all(dim=1).double().mean().item(),
            "q_a": q_a,
            "qa_r": qa_r,
        }

    def _batch(self, split: Split, problems: NDArray[np.int64]) -> Batch:
        records, which = np.divmod(problems, PROBLEMS)
        texts = CHOICES * problems[:, None] + np.arange(CHOICES)
        seen = image_batch(split.seen, split.images[records, 0], blind=self.blind)
        shown = {name: value.repeat_interleave(CHOICES, dim=0) for name, value in seen.items()}
        labels = _targets(split, records)[torch.arange(len(records)), torch.from_numpy(which)]
        return text_batch(split, texts.reshape(-1)) | shown | {"labels": labels}


def _targets(split: Split, records: NDArray[np.int64]) -> Tensor:
    """(records, 2) int64: the right answer and the right reason, 0 to 3 each."""
    return torch.from_numpy(np.stack(split.labels.rows(records))).long()


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Choices:
    return over(fit.read(source, spec, backbone), spec)


def over(data: Data, spec: TaskSpec) -> Choices:
    """The task on data that is already open."""
    return Choices(data=data, blind=bool(fit.options(spec)["blind"]))
