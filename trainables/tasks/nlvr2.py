"""NLVR2 (Suhr et al. 2019): is a sentence true of two images?

Each image forms a sequence with the sentence. UNITER (`paired-attn`, the released configuration)
lets the two sequences attend to each other; LXMERT and ViLT concatenate the two pooled outputs.
A model whose type table the task extends, as UNITER and ViLT, gets the types 1 and 2 of the two
images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.data.batches import text_batch
from trainables.data.schema.examples import Split
from trainables.models import MODELS
from trainables.models.base import Backbone, Encoded
from trainables.seeds import Rng
from trainables.tasks import common, embedding_extensions
from trainables.tasks.base import Batch, Indices
from trainables.tasks.heads import answer_head
from trainables.tasks.prior import flatten_rows, most_frequent_labels, number_texts


class Nlvr2Task(common.PublishedTask):
    @property
    def prior(self) -> float:
        train, held_out = self.data.train, self.data.held_out
        texts, queries = number_texts(train.texts, held_out.texts)
        labels = flatten_rows(train.labels).astype(np.int64)
        guesses = most_frequent_labels(texts, labels, np.ones(len(labels)), queries, 2)
        return 100 * float((guesses == flatten_rows(held_out.labels)).mean())

    def lengths(self) -> Indices:
        """Return the summed length of both sequences, as UNITER counts them."""
        train = self.data.train
        images = common.image_lengths(train.image_data, self.patch_size)[train.images].sum(axis=1)
        both: Indices = 2 * train.texts.lengths() + images
        return both

    def uniter_lengths(self) -> Indices:
        """Return the lengths without [CLS] and [SEP] of both sequences (`Nlvr2PairedDataset` in
        UNITER's `data/nlvr2.py`)."""
        return self.lengths() - 4

    def build_head(self, backbone: Backbone) -> nn.Module:
        if MODELS[backbone.architecture].head.pairs == "attention":
            return PairedAttention(backbone)
        width = 2 * backbone.hidden_size
        return answer_head(backbone.architecture, width, width, 2)

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        return self._batch(self.data.train, indices, rng)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Yield batches of `batch_size` sequences; `sentence` (B,) has numbers of the sentences."""
        (sentences,) = number_texts(self.data.held_out.texts)
        for rows in common.index_batches(self.num_eval, examples, max(1, batch_size // 2)):
            numbers = {"sentence": torch.from_numpy(sentences[rows])}
            yield self._batch(self.data.held_out, rows) | numbers

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return the accuracy, and `consistency`: the share of sentences that are classified
        correctly on all their pairs of images."""
        hits, numbers = [], []
        for logits, batch in scored:
            hits.append(logits.argmax(dim=-1) == batch["labels"])
            numbers.append(batch["sentence"])
        correct, sentence = torch.cat(hits), torch.cat(numbers)
        pairs, correct_pairs = torch.bincount(sentence), torch.bincount(sentence, correct)
        return {
            "score": 100 * correct.double().mean().item(),
            "consistency": 100 * (correct_pairs == pairs)[pairs > 0].double().mean().item(),
        }

    def _batch(self, split: Split, rows: Indices, rng: Rng | None = None) -> dict[str, Tensor]:
        images = self.image_batch(split, split.images[rows].reshape(-1), rng)
        batch = text_batch(split, np.repeat(rows, 2)) | images
        if embedding_extensions(self.name, self.architecture):
            batch["image_kinds"] = torch.tensor([1, 2]).repeat(len(rows))
        labels = np.concatenate(split.labels.rows(rows))
        return batch | {"labels": torch.from_numpy(labels).long()}


class PairedAttention(nn.Module):
    """UNITER's `paired-attn` head (its code, `model/nlvr2.py`), with official parameter names."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        hidden, drop = backbone.hidden_size, backbone.dropout_rate
        heads = backbone.num_attention_heads
        self.attn1 = nn.MultiheadAttention(hidden, heads, dropout=drop, batch_first=True)
        self.attn2 = nn.MultiheadAttention(hidden, heads, dropout=drop, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(drop))
        self.attn_pool = AttentionPool(hidden, drop)
        self.nlvr2_output = nn.Linear(2 * hidden, 2)

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Return (B, 2) logits of 2B sequences; those of an example are adjacent."""
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
    """Mean of the tokens (B, L, hidden), weighted by the softmax of a learned score per token."""

    def __init__(self, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(hidden, 1), nn.ReLU())
        self.dropout = nn.Dropout(drop)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        score: Tensor = self.fc(tokens)[..., 0]
        lowest = torch.finfo(score.dtype).min
        weights = self.dropout(score.masked_fill(padding, lowest).softmax(dim=-1))
        return torch.einsum("bl,blh->bh", weights, tokens)


open_task = Nlvr2Task.open
