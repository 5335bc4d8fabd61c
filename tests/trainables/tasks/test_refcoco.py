"""Referring expressions: scores per region, the published rule of overlap, the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.image_text_pairs import backbone, referring, task_on
from trainables.data.schema.examples import Data
from trainables.seeds import Chance
from trainables.tasks.refcoco import PADDED, overlap
from trainables.training.network import Network


@pytest.fixture(scope="module")
def data() -> Data:
    return referring(64)


def published_overlap(box: list[float], other: list[float]) -> float:
    """The official evaluation, number by number."""
    x1, y1 = max(box[0], other[0]), max(box[1], other[1])
    x2 = min(box[0] + box[2] - 1, other[0] + other[2] - 1)
    y2 = min(box[1] + box[3] - 1, other[1] + other[3] - 1)
    met = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0.0
    return met / (box[2] * box[3] + other[2] * other[3] - met)


def test_overlap_counts_pixels_as_published() -> None:
    chance = np.random.default_rng(0)
    boxes = chance.integers(1, 40, size=(500, 2, 4)).astype(float)
    found = overlap(torch.from_numpy(boxes[:, 0]), torch.from_numpy(boxes[:, 1])).tolist()
    assert found == pytest.approx([published_overlap(*pair) for pair in boxes.tolist()])


# 10 pixels wide and 5 shared: 50 / 150. One shared column does not count as meeting.
@pytest.mark.parametrize(
    ("x", "expected"), [(0, 1.0), (5, 1 / 3), (8, 20 / 180), (9, 0.0), (10, 0.0)]
)
def test_overlap_of_shifted_squares(x: float, expected: float) -> None:
    square = torch.tensor([0.0, 0.0, 10.0, 10.0])
    shifted = torch.tensor([x, 0.0, 10.0, 10.0])
    assert overlap(square, shifted).item() == pytest.approx(expected)


def test_half_of_the_target_is_not_enough(data: Data) -> None:
    half = torch.tensor([0.0, 0.0, 10.0, 5.0])
    assert overlap(half, torch.tensor([0.0, 0.0, 10.0, 10.0])).item() == 0.5
    task = task_on("refcoco", data, backbone("uniter"))
    batch = next(task.eval_batches(64, 0))
    assert batch["hits"].sum(dim=1).eq(1).all()  # the target's box alone
    assert batch["hits"].shape == batch["region_mask"].shape
    assert not (batch["hits"] & ~batch["region_mask"]).any()


def test_head_and_loss_are_the_published_ones(data: Data) -> None:
    model = backbone("uniter")
    task = task_on("refcoco", data, model)
    head = task.build_head(model)
    batch = task.train_batch(np.arange(8), Chance(0))
    logits = head(model(batch), batch)
    assert {name.split(".")[0] for name in head.state_dict()} == {"0", "2", "3"}  # re_output's
    assert (logits[~batch["region_mask"]] == PADDED).all()
    by_hand = [
        -torch.log_softmax(row[mask], dim=0)[label]
        for row, mask, label in zip(logits, batch["region_mask"], batch["labels"], strict=True)
    ]
    torch.testing.assert_close(task.loss(logits, batch), torch.stack(by_hand).mean())


def test_weights_of_the_published_model(data: Data) -> None:
    with torch.device("meta"):
        model = backbone("uniter", "base")
        head = task_on("refcoco", data, model).build_head(model)
    assert sum(p.numel() for p in Network(model, head).parameters()) == 110_491_649


def test_score_and_prior(data: Data) -> None:
    task = task_on("refcoco", data, backbone("uniter"))
    batches = list(task.eval_batches(24, 60))
    assert [len(batch["hits"]) for batch in batches] == [24, 24, 12]
    assert task.score((batch["hits"].float(), batch) for batch in batches) == {"score": 100.0}
    assert task.score((-batch["hits"].float(), batch) for batch in batches) == {"score": 0.0}
    counts = data.held_out.seen.features.lengths()  # type: ignore[union-attr]
    assert task.prior == pytest.approx(100 * (1 / counts).mean())


def test_divergence_is_over_regions(data: Data) -> None:
    model = backbone("uniter")
    task = task_on("refcoco", data, model)
    batch = task.train_batch(np.arange(8), Chance(0))
    logits = torch.randn(8, 4).masked_fill(~batch["region_mask"], PADDED)
    moved = (logits + torch.randn(8, 4)).masked_fill(~batch["region_mask"], PADDED)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        p, q = p.softmax(0), q.softmax(0)
        return (p * (p / q).log()).sum()

    rows = [(a[m], b[m]) for a, b, m in zip(logits, moved, batch["region_mask"], strict=True)]
    expected = torch.stack([kl(a, b) + kl(b, a) for a, b in rows]).mean()
    torch.testing.assert_close(task.divergence(logits, moved, batch), expected)
    assert task.divergence(logits, logits, batch).item() == 0


def trained(data: Data, *, blind: bool) -> dict[str, float]:
    model = backbone("uniter")
    made = task_on("refcoco", data, model, blind=blind)
    net = Network(model, made.build_head(model))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for step in range(100):
        batch = made.train_batch(np.arange(32) + 32 * (step % 2), Chance(0))
        optimizer.zero_grad()
        made.loss(net(batch), batch).backward()
        optimizer.step()
    with torch.no_grad():
        scores: dict[str, float] = made.score((net(b), b) for b in made.eval_batches(64, 0))
    return scores


def test_it_can_be_learnt_with_open_eyes_only(data: Data) -> None:
    assert trained(data, blind=False)["score"] > 90
    assert trained(data, blind=True)["score"] < 60  # chance is 37
