"""Loss, score, prior, and the transfer of LXMERT's head, on numbers that a hand can check."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.toy_tasks import ANSWERS, NOWHERE, backbone, toy_data, toy_split, toy_task
from trainables.data.schema.examples import Data, Ragged, Split
from trainables.errors import DataError
from trainables.models import lxmert
from trainables.seeds import Chance
from trainables.spec import ModelSpec
from trainables.tasks.answers import PRETRAINED_ANSWERS, normalised
from trainables.tasks.base import Source


def _asked(texts: list[list[int]], labels: list[list[int]], scores: list[list[float]]) -> Split:
    """`uniter` data with these questions and targets."""
    return replace(
        toy_split("vqa", "uniter", len(texts), 0),
        texts=Ragged.of(texts, np.int32),
        labels=Ragged.of(labels, np.int32),
        scores=Ragged.of(scores, np.float32),
    )


def _task(train: Split, held_out: Split, task: str = "vqa", architecture: str = "uniter") -> Any:
    data = replace(toy_data(task, architecture), train=train, held_out=held_out)
    return toy_task(task, data, backbone(task, architecture))


LABELS, SCORES = [[0], [2, 3], [3], []], [[1.0], [0.3, 0.9], [0.6], []]
HELD_OUT = _asked([[1, 5, 2]] * 4, LABELS, SCORES)
TARGETS = torch.tensor([[1, 0, 0, 0], [0, 0, 0.3, 0.9], [0, 0, 0, 0.6], [0, 0, 0, 0]])


def test_loss_is_the_binary_cross_entropy_of_all_answers() -> None:
    task = _task(HELD_OUT, HELD_OUT)
    logits = torch.randn(4, 4)
    p = logits.sigmoid()
    by_hand = -(TARGETS * p.log() + (1 - TARGETS) * (1 - p).log()).sum() / 4
    batch = task.train_batch(np.arange(4), Chance(0))
    assert torch.equal(batch["targets"], TARGETS)
    torch.testing.assert_close(task.loss(logits, batch), by_hand)


def test_vilt_chooses_one_of_three_in_snli_ve() -> None:
    train = toy_split("snli_ve", "vilt", 4, 0)
    task = _task(train, train, "snli_ve", "vilt")
    logits = torch.randn(4, 4)
    labels = torch.tensor([row.item() for row in train.labels.rows(np.arange(4))])
    by_hand = -logits.log_softmax(dim=1)[torch.arange(4), labels].mean()
    batch = task.train_batch(np.arange(4), Chance(0))
    torch.testing.assert_close(task.loss(logits, batch), by_hand)


def test_score_is_the_target_of_the_answer_given_and_its_parts_go_by_the_best_answer() -> None:
    task = _task(HELD_OUT, HELD_OUT)
    (batch,) = task.eval_batches(256, 0)
    answered = torch.eye(4)[[0, 2, 1, 3]]
    scores = task.score([(answered, batch)])
    # yes | 2 and red, of which "2" was given | red | no answer that counts
    assert scores == pytest.approx({"score": 100 * 1.3 / 4, "yes_no": 100.0, "other": 15.0})
    assert task.score([(TARGETS, batch)])["score"] == pytest.approx(100 * (1 + 0.9 + 0.6) / 4)


def test_scores_do_not_depend_on_the_batches() -> None:
    task = _task(HELD_OUT, HELD_OUT)
    logits = torch.randn(4, 4)
    (whole,) = task.eval_batches(256, 0)
    parts = zip(logits.split(3), task.eval_batches(3, 0), strict=True)
    assert task.score(parts) == pytest.approx(task.score([(logits, whole)]))


def test_classes_of_snli_ve_are_scored_under_the_names_of_the_data() -> None:
    task = _task(HELD_OUT, HELD_OUT, "snli_ve")
    (batch,) = task.eval_batches(256, 0)
    scores = task.score([(torch.eye(4)[[0, 3, 0, 0]], batch)])
    assert scores == pytest.approx({"score": 100 * 1.9 / 4, "yes": 100.0, "red": 45.0})


def test_prior_takes_the_best_answer_of_each_text_and_of_all_for_a_new_one() -> None:
    often, seldom, new = [1, 5, 2], [1, 6, 2], [1, 7, 2]
    train = _asked(
        [often, often, often, seldom, seldom],
        [[0], [0, 1], [1], [2, 3], []],
        [[0.3], [0.3, 0.9], [0.9], [0.3, 0.9], []],
    )
    held_out = _asked(
        [often, often, seldom, new, new],
        [[1], [0], [3, 2], [1], []],
        [[0.6], [1], [0.9, 1], [1], []],
    )
    assert _task(train, held_out).prior == pytest.approx(100 * (0.6 + 0.9 + 1) / 5)


# Normalisation as in the official code: one article, a final period, numbers, grey.
@pytest.mark.parametrize(
    ("answer", "known"),
    [
        ("A man", "man"),
        ("the woman.", "woman"),
        ("Two", "2"),
        ("grey", "gray"),
        ("", ""),
        (".", ""),
    ],
)
def test_answers_are_looked_up_as_pretraining_wrote_them(answer: str, known: str) -> None:
    assert normalised(answer) == known


def _transfer(folder: Path) -> None:
    """A head that is to know `ANSWERS` adopts that of a checkpoint file, which knows five."""
    model = backbone("vqa", "lxmert")
    source = Source(folder, folder)
    task = toy_task("vqa", toy_data("vqa", "lxmert"), model, source=source)
    head = task.build_head(model).state_dict()
    parts = {
        f"answer_head.logit_fc.{name}": torch.randn(
            5 if name.startswith("3") else value.shape[0], *value.shape[1:]
        )
        for name, value in head.items()
    }
    weights = {f"bert.{name}": value for name, value in model.state_dict().items()} | parts
    path = folder / "model_LXRT.pth"
    torch.save({f"module.{name}": value for name, value in weights.items()}, path)
    published = lxmert.load(path, ModelSpec(architecture="lxmert", size="tiny")).heads
    adopted = task.adopt(head, published)
    assert adopted.keys() == head.keys()
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(adopted[name], parts[f"answer_head.logit_fc.{name}"])
    for name in ("3.weight", "3.bias"):
        rows = parts[f"answer_head.logit_fc.{name}"]
        for answer, row in zip(ANSWERS, adopted[name], strict=True):
            expected = {"yes": rows[4], "2": rows[1], "red": rows[0], "no": 0 * rows[0]}[answer]
            assert torch.equal(row, expected), answer


def _write(folder: Path, text: str) -> None:
    path = folder / PRETRAINED_ANSWERS
    path.parent.mkdir(parents=True)
    path.write_text(text)


TABLE = [{"ans": answer, "dsets": ["vqa"]} for answer in ("red", "2", "cat", "gray", "yes")]


def test_the_pretrained_answer_head_is_taken_over_answer_by_answer(tmp_path: Path) -> None:
    _write(tmp_path, json.dumps(TABLE))
    _transfer(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read .* copy it from the official repository"),
        ("[1, 2]", "not a list of entries with `ans`"),
        (json.dumps(TABLE[:3]), "3 answers, the checkpoint's answer head has 5"),
    ],
)
def test_an_answer_table_that_cannot_serve_is_told(
    tmp_path: Path, text: str | None, told: str
) -> None:
    if text is not None:
        _write(tmp_path, text)
    with pytest.raises(DataError, match=f"all_ans.json: .*{told}"):
        _transfer(tmp_path)


def test_a_head_is_drawn_where_the_checkpoint_has_none() -> None:
    for architecture in ("uniter", "lxmert", "vilt"):
        model = backbone("vqa", architecture)
        task = toy_task("vqa", toy_data("vqa", architecture), model, source=NOWHERE)
        head = task.build_head(model).state_dict()
        assert task.adopt(head, {"cls.predictions.bias": torch.zeros(3)}) is head


def test_data_keeps_its_own_order_of_answers() -> None:
    data: Data = toy_data("vqa", "uniter")
    turned = replace(data, answers=data.answers[::-1])
    scores = [
        toy_task("vqa", each, backbone("vqa", "uniter")).score(
            [(torch.eye(4)[[0]], {"targets": torch.eye(4)[[0]]})]
        )
        for each in (data, turned)
    ]
    assert scores == [{"score": 100, "yes_no": 100}, {"score": 100, "other": 100}]
