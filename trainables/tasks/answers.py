"""Tasks that choose one of many named answers to a text about one image: VQA, GQA, SNLI-VE.

Targets are soft: each answer of the vocabulary has a score of 0 to 1. LXMERT's pre-training answers
questions too, and its head goes on from there (the official `--loadLXMERTQA`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data, Split
from trainables.errors import DataError
from trainables.models.base import Backbone
from trainables.seeds import Chance
from trainables.spec import TaskSpec
from trainables.tasks import fit
from trainables.tasks.base import Batch, Source
from trainables.tasks.heads import CLASSIFIERS, symmetric_kl
from trainables.tasks.prior import flat, numbered, usual_labels

PRETRAINED_ANSWERS = Path("lxmert/lxmert/all_ans.json")
"""Below the data folder, where the official `data` folder has it: the 9,500 answers of LXMERT's
pre-training, in the order of its head. Read only for a checkpoint that has such a head."""


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over the answers, mean over the batch: (B, N) both."""
    return binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Implements `trainables.tasks.base.Task`."""

    data: Data
    architecture: str
    patch: int
    blind: bool
    folder: Path
    objective: Callable[[Tensor, Tensor], Tensor]
    """Of logits and targets (B, N); mean over the batch."""
    kinds: Mapping[str, frozenset[str]]
    """The break-down: name -> the answers of that kind. An example is of the kind of its best
    answer, and of none if that is in no kind or it has no answer."""

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out)

    @property
    def prior(self) -> float:
        train, held_out = self.data.train, self.data.held_out
        texts, asked = numbered(train.texts, held_out.texts)
        guesses = usual_labels(
            np.repeat(texts, train.labels.lengths()),
            flat(train.labels).astype(np.int64),
            flat(train.scores).astype(np.float64),
            asked,
            len(self.data.answers),
        )
        guessed = np.repeat(guesses, held_out.labels.lengths()) == flat(held_out.labels)
        return 100 * float(flat(held_out.scores)[guessed].sum()) / len(held_out)

    def lengths(self) -> NDArray[np.int64]:
        return fit.lengths(self.data.train, self.patch)

    def build_head(self, backbone: Backbone) -> nn.Module:
        hidden = backbone.hidden_size
        return CLASSIFIERS[self.architecture](hidden, 2 * hidden, len(self.data.answers))

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """LXMERT's answer head, where the checkpoint file has one; others' are drawn."""
        prefix = "answer_head.logit_fc."
        if self.architecture != "lxmert" or f"{prefix}3.weight" not in published:
            return head
        found = {name: published[f"{prefix}{name}"] for name in head}
        path, known = self.folder / PRETRAINED_ANSWERS, len(found["3.bias"])
        rows = _pretrained_rows(path, self.data.answers, known)
        for name in ("3.weight", "3.bias"):
            # Answers that pre-training did not know begin at zero, as in the official code.
            found[name] = torch.cat([found[name], torch.zeros_like(found[name][:1])])[rows]
        return found

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        return self._batch(self.data.train, indices)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        for rows in fit.stretches(self.num_eval, examples, batch_size):
            yield self._batch(self.data.held_out, rows)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.objective(logits, batch["targets"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Over the softmax of all answers, as VILLA, although the loss is binary."""
        return symmetric_kl(clean, perturbed)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """The target score of the answer given, also by kind of answer."""
        won, best = [], []
        for logits, batch in scored:
            highest, which = batch["targets"].max(dim=-1)
            won.append(batch["targets"].gather(1, logits.argmax(dim=-1, keepdim=True))[:, 0])
            best.append(torch.where(highest > 0, which, len(self.data.answers)))
        wins, bests = torch.cat(won).double(), torch.cat(best)
        scores = {"score": 100 * wins.mean().item()}
        for kind, answers in self.kinds.items():
            members = [*(answer in answers for answer in self.data.answers), False]
            of_kind = torch.tensor(members)[bests]
            if of_kind.any():
                scores[kind] = 100 * wins[of_kind].mean().item()
        return scores

    def _batch(self, split: Split, rows: NDArray[np.int64]) -> Batch:
        labels = split.labels.rows(rows)
        owners = np.repeat(np.arange(len(rows)), [len(each) for each in labels])
        targets = torch.zeros(len(rows), len(self.data.answers))
        places = torch.from_numpy(owners), torch.from_numpy(np.concatenate(labels)).long()
        targets[places] = torch.from_numpy(np.concatenate(split.scores.rows(rows)))
        seen = image_batch(split.seen, split.images[rows, 0], patch=self.patch, blind=self.blind)
        return text_batch(split, rows) | seen | {"targets": targets}


def answering(
    data: Data,
    source: Source,
    spec: TaskSpec,
    backbone: Backbone,
    *,
    objective: Callable[[Tensor, Tensor], Tensor],
    kinds: Mapping[str, frozenset[str]],
) -> Answers:
    return Answers(
        data=data,
        architecture=backbone.architecture,
        patch=backbone.patch_size,
        blind=bool(fit.options(spec)["blind"]),
        folder=source.data,
        objective=objective,
        kinds=kinds,
    )


_ARTICLES = ("a ", "an ", "the ")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SAME = {"grey": "gray", **{word: str(n) for n, word in enumerate(_NUMBERS, start=1)}}


def normalised(answer: str) -> str:
    """As LXMERT's pre-training wrote its answers (official code, `qa_answer_table.py`)."""
    answer = answer.lower()
    if answer.endswith("."):
        answer = answer[:-1].strip()
    for article in _ARTICLES:
        if answer.startswith(article):
            answer = answer.removeprefix(article).strip()
    return _SAME.get(answer, answer)


@lru_cache(maxsize=4)
def _pretrained_rows(path: Path, answers: tuple[str, ...], known: int) -> Tensor:
    """(N,) the row of each answer in LXMERT's pre-training head, which has `known`; else -1."""
    try:
        table = [str(entry["ans"]) for entry in json.loads(path.read_text())]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), and the checkpoint's answer head is in its"
            " order; copy it from the official repository (data/lxmert/all_ans.json)"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not a list of entries with `ans`; copy it from the official repository again"
        ) from error
    if len(table) != known:
        raise DataError(
            f"{path}: {len(table)} answers, the checkpoint's answer head has {known}; give the "
            "file of that checkpoint"
        )
    place = {answer: row for row, answer in enumerate(table)}
    return torch.tensor([place.get(normalised(answer), -1) for answer in answers])
