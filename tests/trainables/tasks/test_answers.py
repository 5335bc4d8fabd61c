"""Loss, score, prior, and the transfer of LXMERT's answer head, checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.toy_tasks import ANSWERS, UNUSED_SOURCE, backbone, toy_data, toy_split, toy_task
from trainables.data.schema.examples import Data, Ragged, Split
from trainables.errors import DataError
from trainables.models.lxmert import model as lxmert
from trainables.seeds import Rng
from trainables.spec import ModelSpec
from trainables.tasks.answers import PRETRAINED_ANSWERS, normalise_answer
from trainables.tasks.base import TaskSource


def _question_split(
    texts: list[list[int]], labels: list[list[int]], scores: list[list[float]]
) -> Split:
    """Make a split of `uniter` data with these questions and targets."""
    return replace(
        toy_split("vqa", "uniter", len(texts), 0),
        texts=Ragged.from_rows(texts, np.int32),
        labels=Ragged.from_rows(labels, np.int32),
        scores=Ragged.from_rows(scores, np.float32),
    )


def _task(train: Split, held_out: Split, task: str = "vqa", architecture: str = "uniter") -> Any:
    data = replace(toy_data(task, architecture), train=train, held_out=held_out)
    return toy_task(task, data, backbone(task, architecture))


LABELS, SCORES = [[0], [2, 3], [3], []], [[1.0], [0.3, 0.9], [0.6], []]
HELD_OUT = _question_split([[1, 5, 2]] * 4, LABELS, SCORES)
TARGETS = torch.tensor([[1, 0, 0, 0], [0, 0, 0.3, 0.9], [0, 0, 0, 0.6], [0, 0, 0, 0]])


def test_loss_is_the_binary_cross_entropy_of_all_answers() -> None:
    task = _task(HELD_OUT, HELD_OUT)
    logits = torch.randn(4, 4)
    p = logits.sigmoid()
    by_hand = -(TARGETS * p.log() + (1 - TARGETS) * (1 - p).log()).sum() / 4
    batch = task.train_batch(np.arange(4), Rng(0))
    assert torch.equal(batch["targets"], TARGETS)
    torch.testing.assert_close(task.loss(logits, batch), by_hand)


def test_vilt_chooses_one_of_three_in_snli_ve() -> None:
    train = toy_split("snli_ve", "vilt", 4, 0)
    task = _task(train, train, "snli_ve", "vilt")
    logits = torch.randn(4, 4)
    labels = torch.tensor([row.item() for row in train.labels.rows(np.arange(4))])
    by_hand = -logits.log_softmax(dim=1)[torch.arange(4), labels].mean()
    batch = task.train_batch(np.arange(4), Rng(0))
    torch.testing.assert_close(task.loss(logits, batch), by_hand)


def test_score_is_the_target_of_the_prediction_and_kinds_follow_the_best_answer() -> None:
    task = _task(HELD_OUT, HELD_OUT)
    (batch,) = task.eval_batches(256, 0)
    predicted = torch.eye(4)[[0, 2, 1, 3]]
    scores = task.score([(predicted, batch)])
    # yes | 2 and red, of which "2" is predicted | red | no answer that counts
    assert scores == pytest.approx({"score": 100 * 1.3 / 4, "yes_no": 100.0, "other": 15.0})
    assert task.score([(TARGETS, batch)])["score"] == pytest.approx(100 * (1 + 0.9 + 0.6) / 4)


def test_scores_do_not_depend_on_the_batches() -> None:
    task = _task(HELD_OUT, HELD_OUT)
    logits = torch.randn(4, 4)
    (full_batch,) = task.eval_batches(256, 0)
    head_weights = zip(logits.split(3), task.eval_batches(3, 0), strict=True)
    assert task.score(head_weights) == pytest.approx(task.score([(logits, full_batch)]))


def test_snli_ve_scores_each_class_under_its_name_in_the_data() -> None:
    task = _task(HELD_OUT, HELD_OUT, "snli_ve")
    (batch,) = task.eval_batches(256, 0)
    scores = task.score([(torch.eye(4)[[0, 3, 0, 0]], batch)])
    assert scores == pytest.approx({"score": 100 * 1.9 / 4, "yes": 100.0, "red": 45.0})


def test_prior_uses_the_best_answer_of_each_text_and_the_overall_best_for_a_new_text() -> None:
    frequent, rare, new = [1, 5, 2], [1, 6, 2], [1, 7, 2]
    train = _question_split(
        [frequent, frequent, frequent, rare, rare],
        [[0], [0, 1], [1], [2, 3], []],
        [[0.3], [0.3, 0.9], [0.9], [0.3, 0.9], []],
    )
    held_out = _question_split(
        [frequent, frequent, rare, new, new],
        [[1], [0], [3, 2], [1], []],
        [[0.6], [1], [0.9, 1], [1], []],
    )
    assert _task(train, held_out).prior == pytest.approx(100 * (0.6 + 0.9 + 1) / 5)


# Normalisation as in the official code: articles, a final period, number words, grey.
@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("A man", "man"),
        ("the woman.", "woman"),
        ("Two", "2"),
        ("grey", "gray"),
        ("", ""),
        (".", ""),
    ],
)
def test_answers_are_normalised_as_in_pretraining(answer: str, normalised: str) -> None:
    assert normalise_answer(answer) == normalised


def _transfer(folder: Path) -> None:
    """Initialise a head for `ANSWERS` from a checkpoint's head, which has five answers, and check
    it."""
    model = backbone("vqa", "lxmert")
    source = TaskSource(folder, folder)
    task = toy_task("vqa", toy_data("vqa", "lxmert"), model, source=source)
    head = task.build_head(model).state_dict()
    head_weights = {
        f"answer_head.logit_fc.{name}": torch.randn(
            5 if name.startswith("3") else value.shape[0], *value.shape[1:]
        )
        for name, value in head.items()
    }
    weights = {f"bert.{name}": value for name, value in model.state_dict().items()} | head_weights
    path = folder / "model_LXRT.pth"
    torch.save({f"module.{name}": value for name, value in weights.items()}, path)
    published = lxmert.load(path, ModelSpec(architecture="lxmert", size="tiny")).heads
    initialised = task.init_from_pretrained(head, published)
    assert initialised.keys() == head.keys()
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(initialised[name], head_weights[f"answer_head.logit_fc.{name}"])
    for name in ("3.weight", "3.bias"):
        rows = head_weights[f"answer_head.logit_fc.{name}"]
        for answer, row in zip(ANSWERS, initialised[name], strict=True):
            expected = {"yes": rows[4], "2": rows[1], "red": rows[0], "no": 0 * rows[0]}[answer]
            assert torch.equal(row, expected), answer


def _write(folder: Path, text: str) -> None:
    path = folder / PRETRAINED_ANSWERS
    path.parent.mkdir(parents=True)
    path.write_text(text)


TABLE = [{"ans": answer, "dsets": ["vqa"]} for answer in ("red", "2", "cat", "gray", "yes")]


def test_the_pretrained_answer_head_is_copied_answer_by_answer(tmp_path: Path) -> None:
    _write(tmp_path, json.dumps(TABLE))
    _transfer(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .* copy it from the official repository"),
        ("[1, 2]", "not a list of entries with `ans`"),
        (json.dumps(TABLE[:3]), "3 answers, the checkpoint's answer head has 5"),
    ],
)
def test_an_unusable_answer_table_is_an_error(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        _write(tmp_path, text)
    with pytest.raises(DataError, match=f"all_ans.json: .*{message}"):
        _transfer(tmp_path)


def test_a_head_stays_random_where_the_checkpoint_has_none() -> None:
    for architecture in ("uniter", "lxmert", "vilt"):
        model = backbone("vqa", architecture)
        task = toy_task("vqa", toy_data("vqa", architecture), model, source=UNUSED_SOURCE)
        head = task.build_head(model).state_dict()
        assert task.init_from_pretrained(head, {"cls.predictions.bias": torch.zeros(3)}) is head


def test_the_order_of_answers_is_that_of_the_data() -> None:
    data: Data = toy_data("vqa", "uniter")
    reversed_data = replace(data, answers=data.answers[::-1])
    scores = [
        toy_task("vqa", each, backbone("vqa", "uniter")).score(
            [(torch.eye(4)[[0]], {"targets": torch.eye(4)[[0]]})]
        )
        for each in (data, reversed_data)
    ]
    assert scores == [{"score": 100, "yes_no": 100}, {"score": 100, "other": 100}]
