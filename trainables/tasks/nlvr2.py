"""NLVR2 (Suhr et al. 2019): is a sentence true of two images?

Each image is read together with the sentence, as a sequence of its own. UNITER (`paired-attn`, the
released configuration) lets the two sequences attend to each other; LXMERT and ViLT lay the two
pooled outputs side by side. UNITER and ViLT tell the images apart by types 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data, Split
from trainables.models.base import Backbone, Encoded
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks import TASKS, fit
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import CLASSIFIERS, symmetric_kl
from trainables.tasks.prior import flat, numbered, usual_labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Implements `trainables.tasks.base.Task`."""

    data: Data
    patch: int
    blind: bool
    numbered_images: bool
    """The backbone has a type for the second image."""

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out)

    @property
    def prior(self) -> float:
        train, held_out = self.data.train, self.data.held_out
        texts, asked = numbered(train.texts, held_out.texts)
        labels = flat(train.labels).astype(np.int64)
        guesses = usual_labels(texts, labels, np.ones(len(labels)), asked, 2)
        return 100 * float((guesses == flat(held_out.labels)).mean())

    def lengths(self) -> NDArray[np.int64]:
        """Of both sequences together, as UNITER counts them."""
        train = self.data.train
        both = fit.seen_lengths(train.seen, self.patch)[train.images].sum(axis=1)
        whole: NDArray[np.int64] = 2 * train.texts.lengths() + both
        return whole

    def build_head(self, backbone: Backbone) -> nn.Module:
        if backbone.architecture == "uniter":
            return PairedAttention(backbone)
        wide = 2 * backbone.hidden_size
        return CLASSIFIERS[backbone.architecture](wide, wide, 2)

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return head

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        return self._batch(self.data.train, indices)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """`batch_size` sequences each; `sentence` (B,) numbers the sentences."""
        (sentences,) = numbered(self.data.held_out.texts)
        for rows in fit.stretches(self.num_eval, examples, max(1, batch_size // 2)):
            named = {"sentence": torch.from_numpy(sentences[rows])}
            yield self._batch(self.data.held_out, rows) | named

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Accuracy; `consistency` is the share of sentences that are right on all their pairs."""
        right, sentence = [], []
        for logits, batch in scored:
            right.append(logits.argmax(dim=-1) == batch["labels"])
            sentence.append(batch["sentence"])
        hits, owner = torch.cat(right), torch.cat(sentence)
        met, won = torch.bincount(owner), torch.bincount(owner, hits)
        return {
            "score": 100 * hits.double().mean().item(),
            "consistency": 100 * (won == met)[met > 0].double().mean().item(),
        }

    def _batch(self, split: Split, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = text_batch(split, np.repeat(rows, 2)) | image_batch(
            split.seen, split.images[rows].reshape(-1), patch=self.patch, blind=self.blind
        )
        if self.numbered_images:
            batch["image_kinds"] = torch.tensor([1, 2]).repeat(len(rows))
        labels = np.concatenate(split.labels.rows(rows))
        return batch | {"labels": torch.from_numpy(labels).long()}


class PairedAttention(nn.Module):
    """UNITER's `paired-attn` head (its code, `model/nlvr2.py`), with the official names."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        bert: Any = backbone.encoder
        hidden, drop = backbone.hidden_size, bert.config.hidden_dropout_prob
        heads = bert.config.num_attention_heads
        self.attn1 = nn.MultiheadAttention(hidden, heads, dropout=drop, batch_first=True)
        self.attn2 = nn.MultiheadAttention(hidden, heads, dropout=drop, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(drop))
        self.attn_pool = AttentionPool(hidden, drop)
        self.nlvr2_output = nn.Linear(2 * hidden, 2)

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:
        """(B, 2) from 2B sequences, those of an example next to each other."""
        tokens = torch.cat([encoded.text, encoded.image], dim=1)
        padding = ~torch.cat([batch["text_mask"], batch["region_mask"]], dim=1)
        left, right = tokens[0::2], tokens[1::2]
        no_left, no_right = padding[0::2], padding[1::2]
        to_right, _ = self.attn1(left, right, right, no_right, need_weights=False)
        to_left, _ = self.attn2(right, left, left, no_left, need_weights=False)
        left = self.attn_pool(self.fc(torch.cat([to_right, left], dim=-1)), no_left)
        right = self.attn_pool(self.fc(torch.cat([to_left, right], dim=-1)), no_right)
        out: Tensor = self.nlvr2_output(torch.cat([left, right], dim=-1))
        return out


class AttentionPool(nn.Module):
    """The mean of the tokens (B, L, hidden), weighted by the softmax of a learnt score of each."""

    def __init__(self, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(hidden, 1), nn.ReLU())
        self.dropout = nn.Dropout(drop)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        score: Tensor = self.fc(tokens)[..., 0]
        lowest = torch.finfo(score.dtype).min
        weights = self.dropout(score.masked_fill(padding, lowest).softmax(dim=-1))
        return torch.einsum("bl,blh->bh", weights, tokens)


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Pairs:
    return over(fit.read(source, spec, backbone), spec, backbone)


def over(data: Data, spec: TaskSpec, backbone: Backbone) -> Pairs:
    """The task on data that is already open."""
    return Pairs(
        data=data,
        patch=backbone.patch_size,
        blind=bool(fit.options(spec)["blind"]),
        numbered_images=backbone.architecture in TASKS["nlvr2"].grows,
    )
