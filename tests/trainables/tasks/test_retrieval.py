"""Retrieval: negative pairs, both losses, and recall over the score matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.image_text_pairs import (
    backbone,
    build_task,
    caption_data,
    caption_split,
    draw_classes,
)
from trainables.data.batches import image_batch, text_batch
from trainables.data.schema.examples import Data
from trainables.errors import DataError, TrainableError
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.tasks.negatives import NegativeSampler
from trainables.tasks.retrieval import gallery, recall_at_k
from trainables.training.evaluate import evaluate
from trainables.training.network import Network

MODELS = ("uniter", "vilt")


@pytest.fixture(scope="module", params=MODELS)
def setup(request: pytest.FixtureRequest) -> tuple[Any, Backbone, Data]:
    """A task with 24 images of 3 captions each, its backbone and its data."""
    data = caption_data(24, 3, pixels=request.param == "vilt")
    model = backbone(request.param, **({"patch_size": 8} if request.param == "vilt" else {}))
    return build_task("retrieval", data, model), model, data


def test_negatives_are_false_and_uniform() -> None:
    owners = [2, 1, 2, 0, 1, 2]  # images 0, 1, 2 with one, two and three captions
    negatives = NegativeSampler(caption_split(draw_classes(3, 0), owners))
    examples = np.repeat(np.arange(6), 3000)
    images = negatives.sample_images(examples, Rng(0))
    texts = negatives.sample_texts(examples, 2, Rng(1))
    for example, owner in enumerate(owners):
        selected = examples == example
        others = {image: (images[selected] == image).mean() for image in range(3)}
        assert others.pop(owner) == 0
        assert [*others.values()] == pytest.approx([0.5, 0.5], abs=0.05)
        false = [text for text in range(6) if owners[text] != owner]
        shares = [(texts[selected] == text).mean() for text in false]
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([1 / len(false)] * len(false), abs=0.04)


def test_a_single_image_has_no_negatives() -> None:
    with pytest.raises(DataError, match="1 image: negative pairs need two or more"):
        NegativeSampler(caption_data(1, 3).train)


def test_a_batch_has_each_pair_with_its_negatives(setup: tuple[Any, Backbone, Data]) -> None:
    task, _, data = setup
    sequences = task.sequences
    rows = np.array([40, 7, 3])
    batch = task.train_batch(rows, Rng(5))
    again = task.train_batch(rows, Rng(5))
    assert all(torch.equal(value, again[name]) for name, value in batch.items())
    key = "region_features" if sequences == 3 else "pixel_values"
    assert len(batch["input_ids"]) == len(batch[key]) == 3 * sequences
    true_images = image_batch(
        data.train.image_data, data.train.images[rows, 0], patch=task.patch_size
    )[key]
    for place, row in enumerate(rows):
        ids, images = (batch[name][place * sequences :][:sequences] for name in ("input_ids", key))
        true_text = data.train.texts.rows(np.array([row]))[0].tolist()
        assert ids[0][: len(true_text)].tolist() == true_text
        corner = tuple(map(slice, true_images[place].shape))
        same = [torch.equal(each[corner], true_images[place]) for each in images]
        assert same == ([True, False, True] if sequences == 3 else [True] * sequences)
        captions = {tuple(each.tolist()) for each in ids[2 if sequences == 3 else 1 :]}
        assert tuple(ids[0].tolist()) not in captions


def test_losses_are_the_published_ones(setup: tuple[Any, Backbone, Data]) -> None:
    task, _, _ = setup
    logits = torch.randn(4 * task.sequences)
    total = []
    for row in logits.view(4, -1):
        if task.sequences == 3:
            pos, image, text = row.sigmoid()
            total += [max(0.2 + image - pos, 0), max(0.2 + text - pos, 0)]
        else:
            total.append(-torch.log_softmax(row, dim=0)[0])
    assert task.loss(logits, {}).item() == pytest.approx(float(sum(total)) / len(total))


def test_divergence_compares_the_predictions(setup: tuple[Any, Backbone, Data]) -> None:
    task, _, _ = setup
    clean, moved = torch.randn(2, 4 * task.sequences).double()

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (p * (p / q).log()).sum(-1)

    if task.sequences == 3:
        p, q = (torch.stack([each.sigmoid(), 1 - each.sigmoid()], -1) for each in (clean, moved))
    else:
        p, q = (each.view(4, -1).softmax(-1) for each in (clean, moved))
    expected = (kl(p, q) + kl(q, p)).mean()
    torch.testing.assert_close(task.divergence(clean, moved, {}), expected)


def test_recall_of_a_small_matrix() -> None:
    # Texts 0, 1 belong to image 0, text 2 to image 1, texts 3, 4 to image 2.
    matrix = torch.tensor(
        [
            [0.9, 0.1, 0.2],  # its image is first
            [0.3, 0.8, 0.7],  # third
            [0.5, 0.6, 0.1],  # first
            [0.95, 0.2, 0.4],  # second
            [0.1, 0.3, 0.99],  # first
        ]
    )
    owners = torch.tensor([0, 0, 1, 2, 2])
    recalls = recall_at_k(matrix, owners)
    assert recalls["ir1"] == pytest.approx(60)
    # Image 0: text 3 scores above both of its texts. Image 1: text 1 scores above its text.
    # Image 2: text 4 is first.
    assert recalls["tr1"] == pytest.approx(100 / 3)
    assert recalls["ir5"] == recalls["tr5"] == recalls["ir10"] == recalls["tr10"] == 100


def test_recall_matches_sorting() -> None:
    rng = np.random.default_rng(0)
    owners = rng.permutation(np.repeat(np.arange(30), 5))
    matrix = rng.standard_normal((150, 30))
    matrix[np.arange(150), owners] += 1.5
    recalls = recall_at_k(torch.from_numpy(matrix), torch.from_numpy(owners))
    for depth in (1, 5, 10):
        images = np.argsort(-matrix, axis=1)[:, :depth]
        texts = np.argsort(-matrix, axis=0)[:depth]
        ir = np.mean([owner in row for owner, row in zip(owners, images, strict=True)])
        tr = np.mean([image in owners[texts[:, image]] for image in range(30)])
        assert recalls[f"ir{depth}"] == pytest.approx(100 * ir)
        assert recalls[f"tr{depth}"] == pytest.approx(100 * tr)
        assert 0 < ir < 1


def test_constant_scores_give_the_recall_of_chance() -> None:
    recalls = recall_at_k(torch.zeros(40, 20), torch.arange(40) % 20)  # two texts per image
    assert [recalls[f"ir{depth}"] for depth in (1, 5, 10)] == pytest.approx([5, 25, 50])
    assert recalls["tr1"] == pytest.approx(100 * 2 / 40)
    assert recalls["tr5"] == pytest.approx(100 * (1 - 35 * 34 / (40 * 39)))


def test_a_tie_for_the_first_rank_counts_one_half() -> None:
    # Text 0: its image is tied for the first rank. Text 1: one image above, one tied.
    matrix = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0], [0.0, 0.0, 3.0]])
    recalls = recall_at_k(matrix, torch.tensor([0, 1, 2]))
    assert recalls["ir1"] == pytest.approx(100 * (0.5 + 0 + 1) / 3)


@pytest.mark.parametrize("batch_size", [256, 50, 7])
@torch.no_grad()
def test_batched_scores_equal_those_of_single_pairs(
    setup: tuple[Any, Backbone, Data], batch_size: int
) -> None:
    task, model, data = setup
    net = Network(model, task.build_head(model)).eval()
    split = data.held_out
    images, texts, owners = gallery(split, 10)
    assert len(texts) == 30
    expected = torch.empty(30, 10)
    for t, text in enumerate(texts):
        for i, image in enumerate(images):
            pair = text_batch(split, np.array([text])) | image_batch(
                split.image_data, np.array([image]), patch=task.patch_size
            )
            expected[t, i] = net(pair)
    scores_by_pair = torch.full((30, 10), torch.nan)
    batches = list(task.eval_batches(batch_size, 10))
    for batch in batches:
        assert len(batch["input_ids"]) <= batch_size
        scores_by_pair[batch["caption"], batch["image"]] = net(batch)
    torch.testing.assert_close(scores_by_pair, expected, atol=1e-5, rtol=1e-4)
    scores = task.score((net(batch), batch) for batch in batches)
    by_pair = recall_at_k(expected, torch.from_numpy(owners))
    assert {name: scores[name] for name in by_pair} == pytest.approx(by_pair)
    assert scores["score"] == pytest.approx((by_pair["ir1"] + by_pair["tr1"]) / 2)


def test_the_gallery_keeps_the_order_of_the_captions() -> None:
    data = caption_data(4, 2)
    images, texts, owners = gallery(data.held_out, 3)
    assert images.tolist() == [0, 1, 2]
    assert texts.tolist() == [0, 1, 2, 4, 5, 6]
    assert owners.tolist() == [0, 1, 2, 0, 1, 2]


def test_eval_images_makes_the_matrix_smaller(setup: tuple[Any, Backbone, Data]) -> None:
    task, model, data = setup
    assert (len(task.lengths()), task.num_eval, task.prior) == (72, 24, pytest.approx(100 / 24))
    smaller = build_task("retrieval", data, model, eval_images=10)
    assert (smaller.num_eval, smaller.prior) == (10, 10.0)
    shapes = [next(iter(smaller.eval_batches(9, n)))["shape"].tolist() for n in (0, 4, 50)]
    assert shapes == [[30, 10], [12, 4], [30, 10]]
    with pytest.raises(TrainableError, match="eval_images = -1; use 0"):
        build_task("retrieval", data, model, eval_images=-1)


def test_the_head_is_initialised_from_the_row_for_match(setup: tuple[Any, Backbone, Data]) -> None:
    task, model, _ = setup
    drawn = task.build_head(model).state_dict()
    name = "itm_output" if task.sequences == 3 else "itm_score.fc"
    published = {f"{name}.weight": torch.randn(2, 64), f"{name}.bias": torch.tensor([5.0, 7.0])}
    head = task.init_from_pretrained(drawn, published)
    torch.testing.assert_close(head["rank_output.weight"], published[f"{name}.weight"][1:])
    assert head["rank_output.bias"].tolist() == [7.0]
    assert task.init_from_pretrained(drawn, {}) is drawn


def test_the_model_has_as_many_weights_as_the_published_one() -> None:
    with torch.device("meta"):
        model = backbone("uniter", "base")
        head = build_task("retrieval", caption_data(2, 1), model).build_head(model)
    # The official model also has the matching head of 1,538 weights, which it does not use.
    assert sum(p.numel() for p in Network(model, head).parameters()) == 109_901_059 - 1_538


def test_the_task_can_be_learned_with_images_only() -> None:
    data, scores = caption_data(64, 1), {}
    for blind in (False, True):
        model = backbone("uniter")
        task = build_task("retrieval", data, model, blind=blind)
        torch.manual_seed(0)
        net = Network(model, task.build_head(model))
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        for step in range(100):
            rows = np.arange(32) + 32 * (step % 2)
            batch = task.train_batch(rows, Rng(step))
            optimizer.zero_grad()
            task.loss(net(batch), batch).backward()
            optimizer.step()
        scores[blind] = evaluate(net, task, 24, "cpu")["score"]
    assert scores[False] > 40
    assert scores[True] < 20  # chance is 4; the number of regions is still visible
