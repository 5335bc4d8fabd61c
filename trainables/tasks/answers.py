"""Tasks that choose one of many named answers to a text about one image: VQA, GQA, SNLI-VE.

Targets are soft: each answer of the vocabulary has a score of 0 to 1. LXMERT's pre-training answers
questions too, and LXMERT's head is initialised from it (the official `--loadLXMERTQA`).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.data.batches import text_batch
from trainables.data.schema.examples import Split
from trainables.errors import DataError
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.tasks import common
from trainables.tasks.base import Batch, Indices
from trainables.tasks.heads import answer_head
from trainables.tasks.prior import flatten_rows, most_frequent_labels, number_texts

YES_NO = frozenset({"yes", "no"})
PRETRAINED_ANSWERS = Path("lxmert/lxmert/all_ans.json")
"""Path below the data folder, as in the official `data` folder, of the 9,500 answers of LXMERT's
pre-training, in the order of its head. It is read only for a checkpoint that has such a head."""


class AnswerTask(common.PublishedTask):
    """The divergence compares the softmax over all answers, as VILLA does, although the loss is
    binary."""

    @property
    @abstractmethod
    def kinds(self) -> Mapping[str, frozenset[str]]:
        """The score's breakdown: name of a kind -> its answers. An example belongs to the kind of
        its best answer. It belongs to no kind if it has no answer, or an answer of no kind."""

    @property
    def prior(self) -> float:
        train, held_out = self.data.train, self.data.held_out
        texts, queries = number_texts(train.texts, held_out.texts)
        guesses = most_frequent_labels(
            np.repeat(texts, train.labels.lengths()),
            flatten_rows(train.labels).astype(np.int64),
            flatten_rows(train.scores).astype(np.float64),
            queries,
            len(self.data.answers),
        )
        guessed = np.repeat(guesses, held_out.labels.lengths()) == flatten_rows(held_out.labels)
        return 100 * float(flatten_rows(held_out.scores)[guessed].sum()) / len(held_out)

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return answer_head(self.architecture, hidden, 2 * hidden, len(self.data.answers))

    def init_from_pretrained(
        self, head: dict[str, Tensor], published: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Use LXMERT's answer head if the checkpoint file has one; else keep the random head."""
        prefix = "answer_head.logit_fc."
        if f"{prefix}3.weight" not in published:
            return head
        weights = {name: published[f"{prefix}{name}"] for name in head}
        path, count = self.source.local_path() / PRETRAINED_ANSWERS, len(weights["3.bias"])
        rows = _pretrained_rows(path, self.data.answers, count)
        for name in ("3.weight", "3.bias"):
            # Answers that pre-training does not have are initialised to zero, as in the official
            # code.
            weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name][:1])])[rows]
        return weights

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        return self._batch(self.data.train, indices, rng)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        for rows in common.index_batches(self.num_eval, examples, batch_size):
            yield self._batch(self.data.held_out, rows)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the binary cross-entropy, summed over the answers, mean over the batch."""
        targets = batch["targets"]
        return binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Return the mean target score of the predicted answers, overall and by kind."""
        points, best = [], []
        for logits, batch in scored:
            highest, which = batch["targets"].max(dim=-1)
            points.append(batch["targets"].gather(1, logits.argmax(dim=-1, keepdim=True))[:, 0])
            best.append(torch.where(highest > 0, which, len(self.data.answers)))
        all_points, best_answers = torch.cat(points).double(), torch.cat(best)
        scores = {"score": 100 * all_points.mean().item()}
        for kind, answers in self.kinds.items():
            members = [*(answer in answers for answer in self.data.answers), False]
            of_kind = torch.tensor(members)[best_answers]
            if of_kind.any():
                scores[kind] = 100 * all_points[of_kind].mean().item()
        return scores

    def _batch(self, split: Split, rows: Indices, rng: Rng | None = None) -> Batch:
        labels = split.labels.rows(rows)
        examples = np.repeat(np.arange(len(rows)), [len(each) for each in labels])
        targets = torch.zeros(len(rows), len(self.data.answers))
        entries = torch.from_numpy(examples), torch.from_numpy(np.concatenate(labels)).long()
        targets[entries] = torch.from_numpy(np.concatenate(split.scores.rows(rows)))
        images = self.image_batch(split, split.images[rows, 0], rng)
        return text_batch(split, rows) | images | {"targets": targets}


_ARTICLES = ("a ", "an ", "the ")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SAME = {"grey": "gray", **{word: str(n) for n, word in enumerate(_NUMBERS, start=1)}}


def normalise_answer(answer: str) -> str:
    """Normalise an answer as LXMERT's pre-training does (official code, `qa_answer_table.py`)."""
    answer = answer.lower()
    if answer.endswith("."):
        answer = answer[:-1].strip()
    for article in _ARTICLES:
        if answer.startswith(article):
            answer = answer.removeprefix(article).strip()
    return _SAME.get(answer, answer)


@lru_cache(maxsize=4)
def _pretrained_rows(path: Path, answers: tuple[str, ...], count: int) -> Tensor:
    """Return (N,) the row of each answer in LXMERT's pre-training head of `count` answers; -1 for
    answers that it does not have."""
    try:
        table = [str(entry["ans"]) for entry in json.loads(path.read_text())]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), but it gives the order of the checkpoint's"
            " answer head; copy it from the official repository (data/lxmert/all_ans.json)"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not a list of entries with `ans`; copy it from the official repository again"
        ) from error
    if len(table) != count:
        raise DataError(
            f"{path}: {len(table)} answers, the checkpoint's answer head has {count}; give the "
            "file of that checkpoint"
        )
    row_of = {answer: row for row, answer in enumerate(table)}
    return torch.tensor([row_of.get(normalise_answer(answer), -1) for answer in answers])
