"""Referring expressions: scores per region, the published overlap rule, the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.image_text_pairs import backbone, build_task, referring_data
from trainables.data.schema.examples import Data
from trainables.seeds import Rng
from trainables.tasks.refcoco import PADDING_SCORE, box_iou
from trainables.training.network import Network


@pytest.fixture(scope="module")
def data() -> Data:
    return referring_data(64)


def published_overlap(box: list[float], other: list[float]) -> float:
    """Compute the overlap as in the official evaluation."""
    x1, y1 = max(box[0], other[0]), max(box[1], other[1])
    x2 = min(box[0] + box[2] - 1, other[0] + other[2] - 1)
    y2 = min(box[1] + box[3] - 1, other[1] + other[3] - 1)
    common = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0.0
    return common / (box[2] * box[3] + other[2] * other[3] - common)


def test_overlap_counts_pixels_as_published() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.integers(1, 40, size=(500, 2, 4)).astype(float)
    overlaps = box_iou(torch.from_numpy(boxes[:, 0]), torch.from_numpy(boxes[:, 1])).tolist()
    assert overlaps == pytest.approx([published_overlap(*pair) for pair in boxes.tolist()])


# Squares 10 pixels wide that share 5 columns: 50 / 150. One shared column does not intersect.
@pytest.mark.parametrize(
    ("x", "expected"), [(0, 1.0), (5, 1 / 3), (8, 20 / 180), (9, 0.0), (10, 0.0)]
)
def test_overlap_of_shifted_squares(x: float, expected: float) -> None:
    square = torch.tensor([0.0, 0.0, 10.0, 10.0])
    shifted = torch.tensor([x, 0.0, 10.0, 10.0])
    assert box_iou(square, shifted).item() == pytest.approx(expected)


def test_an_overlap_of_one_half_is_not_a_hit(data: Data) -> None:
    half = torch.tensor([0.0, 0.0, 10.0, 5.0])
    assert box_iou(half, torch.tensor([0.0, 0.0, 10.0, 10.0])).item() == 0.5
    task = build_task("refcoco", data, backbone("uniter"))
    batch = next(task.eval_batches(64, 0))
    assert batch["hits"].sum(dim=1).eq(1).all()  # only the target's box
    assert batch["hits"].shape == batch["region_mask"].shape
    assert not (batch["hits"] & ~batch["region_mask"]).any()


def test_head_and_loss_are_the_published_ones(data: Data) -> None:
    model = backbone("uniter")
    task = build_task("refcoco", data, model)
    head = task.build_head(model)
    batch = task.train_batch(np.arange(8), Rng(0))
    logits = head(model(batch), batch)
    assert {name.split(".")[0] for name in head.state_dict()} == {"0", "2", "3"}  # re_output's
    assert (logits[~batch["region_mask"]] == PADDING_SCORE).all()
    by_hand = [
        -torch.log_softmax(row[mask], dim=0)[label]
        for row, mask, label in zip(logits, batch["region_mask"], batch["labels"], strict=True)
    ]
    torch.testing.assert_close(task.loss(logits, batch), torch.stack(by_hand).mean())


def test_the_model_has_as_many_weights_as_the_published_one(data: Data) -> None:
    with torch.device("meta"):
        model = backbone("uniter", "base")
        head = build_task("refcoco", data, model).build_head(model)
    assert sum(p.numel() for p in Network(model, head).parameters()) == 110_491_649


def test_score_and_prior(data: Data) -> None:
    task = build_task("refcoco", data, backbone("uniter"))
    batches = list(task.eval_batches(24, 60))
    assert [len(batch["hits"]) for batch in batches] == [24, 24, 12]
    assert task.score((batch["hits"].float(), batch) for batch in batches) == {"score": 100.0}
    assert task.score((-batch["hits"].float(), batch) for batch in batches) == {"score": 0.0}
    counts = data.held_out.image_data.features.lengths()  # type: ignore[union-attr]
    assert task.prior == pytest.approx(100 * (1 / counts).mean())


def test_divergence_compares_distributions_over_regions(data: Data) -> None:
    model = backbone("uniter")
    task = build_task("refcoco", data, model)
    batch = task.train_batch(np.arange(8), Rng(0))
    logits = torch.randn(8, 4).masked_fill(~batch["region_mask"], PADDING_SCORE)
    moved = (logits + torch.randn(8, 4)).masked_fill(~batch["region_mask"], PADDING_SCORE)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        p, q = p.softmax(0), q.softmax(0)
        return (p * (p / q).log()).sum()

    rows = [(a[m], b[m]) for a, b, m in zip(logits, moved, batch["region_mask"], strict=True)]
    expected = torch.stack([kl(a, b) + kl(b, a) for a, b in rows]).mean()
    torch.testing.assert_close(task.divergence(logits, moved, batch), expected)
    assert task.divergence(logits, logits, batch).item() == 0


def train_and_score(data: Data, *, blind: bool) -> dict[str, float]:
    model = backbone("uniter")
    task = build_task("refcoco", data, model, blind=blind)
    net = Network(model, task.build_head(model))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for step in range(100):
        batch = task.train_batch(np.arange(32) + 32 * (step % 2), Rng(0))
        optimizer.zero_grad()
        task.loss(net(batch), batch).backward()
        optimizer.step()
    with torch.no_grad():
        scores: dict[str, float] = task.score((net(b), b) for b in task.eval_batches(64, 0))
    return scores


def test_the_task_can_be_learned_with_images_only(data: Data) -> None:
    assert train_and_score(data, blind=False)["score"] > 90
    assert train_and_score(data, blind=True)["score"] < 60  # chance is 37
