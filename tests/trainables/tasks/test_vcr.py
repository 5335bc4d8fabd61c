"""Subtasks, loss, the three scores and the prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.toy_tasks import backbone, toy_data, toy_split, toy_task
from trainables.data.schema.examples import Ragged, Regions
from trainables.seeds import Rng

DATA = toy_data("vcr", "uniter", count=3)
TASK = toy_task("vcr", DATA, backbone("vcr", "uniter"))


def test_each_record_has_two_subtasks_of_four_sequences() -> None:
    assert (len(TASK.lengths()), TASK.num_eval) == (6, 3)
    batch = TASK.train_batch(np.array([4, 1]), Rng(0))
    rows = [*range(16, 20), *range(4, 8)]  # the answers of record 2, the rationales of record 0
    ids, _ = DATA.train.texts.padded(np.array(rows))
    assert batch["input_ids"].tolist() == ids.tolist()
    assert batch["text_kinds"].tolist() == [[0, 0, 2]] * 4 + [[2, 3, 3]] * 4
    labels = [row.tolist() for row in DATA.train.labels.rows(np.array([2, 0]))]
    assert batch["labels"].tolist() == [labels[0][0], labels[1][1]]

    features, _ = DATA.train.image_data.features.padded(DATA.train.images[[2, 0], 0], np.float32)
    expected = torch.from_numpy(features).repeat_interleave(4, dim=0)
    assert torch.equal(batch["region_features"], expected)


def test_a_subtask_with_long_texts_is_not_trained_on() -> None:
    """The QA->R of record 0 and the Q->A of record 2 are too long."""
    scores = Ragged.from_rows([[1, 0], [1, 1], [0, 1]], np.float32)
    data = replace(DATA, train=replace(DATA.train, scores=scores))
    task = toy_task("vcr", data, backbone("vcr", "uniter"))
    assert len(task.lengths()) == len(task.uniter_lengths()) == 4
    batch = task.train_batch(np.array([1, 3]), Rng(0))
    rows = [*range(8, 12), *range(20, 24)]  # Q->A of record 1, QA->R of record 2
    ids, _ = DATA.train.texts.padded(np.array(rows))
    assert batch["input_ids"].tolist() == ids.tolist()
    labels = [row.tolist() for row in DATA.train.labels.rows(np.array([1, 2]))]
    assert batch["labels"].tolist() == [labels[0][0], labels[1][1]]
    assert task.num_eval == 3


def test_uniter_counts_four_answers_and_one_rationale() -> None:
    question, answers, rationales, right, regions = 9, [3, 12, 5, 4], [7, 2, 20, 6], 2, 4
    texts = [[1] * (question + answer + 3) for answer in answers]
    texts += [[1] * (question + answers[right] + rationale + 4) for rationale in rationales]
    image = Regions(
        features=Ragged.from_rows([np.zeros((regions, 192))], np.float16, (192,)),
        boxes=Ragged.from_rows([np.zeros((regions, 7))], np.float32, (7,)),
    )
    train = replace(
        toy_split("vcr", "uniter", 1, 0),
        texts=Ragged.from_rows(texts, np.int32),
        labels=Ragged.from_rows([[right, 0]], np.int32),
        images=np.zeros((1, 1), np.int32),
        image_data=image,
    )
    task = toy_task("vcr", replace(DATA, train=train), backbone("vcr", "uniter"))
    assert task.uniter_lengths().tolist() == [4 * (9 + 12) + 4, 4 * (9 + 12) + 20 + 4]
    assert task.lengths().tolist() == [9 + 12 + 3 + 4, 9 + 5 + 20 + 4 + 4]


def test_loss_is_the_cross_entropy_of_right_and_wrong_per_choice() -> None:
    batch = TASK.train_batch(np.array([0, 3]), Rng(0))
    logits = torch.randn(8, 2)
    right = [n == label for label in batch["labels"].tolist() for n in range(4)]
    probabilities = logits.softmax(dim=1)
    log_losses = [-probabilities[n, int(hit)].log() for n, hit in enumerate(right)]
    by_hand = torch.stack(log_losses).mean()
    torch.testing.assert_close(TASK.loss(logits, batch), by_hand)


def test_the_score_needs_both_answer_and_rationale() -> None:
    batches = list(TASK.eval_batches(8, 0))
    assert [len(batch["input_ids"]) for batch in batches] == [8, 8, 8]
    hits = [(True, True), (True, False), (False, False)]
    scored = []
    for batch, both in zip(batches, hits, strict=True):
        logits = torch.zeros(8, 2)
        for subtask, (label, hit) in enumerate(zip(batch["labels"].tolist(), both, strict=True)):
            logits[4 * subtask + (label if hit else (label + 1) % 4), 1] = 2.0
        logits[:, 0] = torch.randn(8)  # only the logit of "right" counts
        scored.append((logits, batch))
    scores = TASK.score(scored)
    assert scores == pytest.approx({"score": 100 / 3, "q_a": 200 / 3, "qa_r": 100 / 3})


def test_prior_chooses_the_text_that_was_right_most_often() -> None:
    """The 4 answers and 4 rationales have the texts 10 to 17; 10 and 15 are right in training."""
    texts = [[1, 10 + n, 2] for n in range(8)]
    train = replace(
        toy_split("vcr", "uniter", 1, 0),
        texts=Ragged.from_rows(texts, np.int32),
        labels=Ragged.from_rows([[0, 1]], np.int32),
    )
    reordered = [texts[n] for n in (3, 0, 1, 2, 4, 6, 7, 5)]
    unknown = [[1, 30, 2]] * 4 + texts[4:]
    held_out = replace(
        toy_split("vcr", "uniter", 4, 0),
        texts=Ragged.from_rows([*texts, *reordered, *unknown, *unknown], np.int32),
        labels=Ragged.from_rows([[0, 1], [1, 3], [0, 1], [1, 1]], np.int32),
    )
    data = replace(DATA, train=train, held_out=held_out)
    # An unknown text counts as right in 1 of 4 cases; of four unknown texts the first is chosen.
    assert toy_task("vcr", data, backbone("vcr", "uniter")).prior == 75
