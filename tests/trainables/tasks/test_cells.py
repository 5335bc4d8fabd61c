"""Every task with every architecture that its authors, or METER's, trained on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.toy_tasks import CELLS, NOWHERE, TASKS_HERE, backbone, toy_data, toy_task
from trainables.errors import DataError, TrainableError
from trainables.seeds import Chance
from trainables.tasks import TASKS, fit
from trainables.training.network import Network
from trainables.training.order import Order

CHANCE = Chance(0)


def _network(task: str, architecture: str, **more: Any) -> tuple[Any, Network]:
    model = backbone(task, architecture)
    made = toy_task(task, toy_data(task, architecture), model, **more)
    torch.manual_seed(1)
    return made, Network(model, made.build_head(model))


def test_the_cells_of_the_paper_and_vilt_on_snli_ve() -> None:
    assert {
        *((task, "uniter") for task in TASKS_HERE),
        *((task, "lxmert") for task in ("vqa", "gqa", "nlvr2")),
        *((task, "vilt") for task in ("vqa", "nlvr2", "snli_ve")),
    } == set(CELLS)


# Weights of the official models with their heads. UNITER's vocabulary grows by 81 words for VCR.
@pytest.mark.parametrize(
    ("task", "architecture", "answers", "weights"),
    [
        ("vqa", "uniter", 3129, 115_892_281),
        ("snli_ve", "uniter", 3, 111_087_619),
        ("vcr", "uniter", 0, 111_149_826),
        ("nlvr2", "uniter", 0, 115_808_515),
        ("vqa", "lxmert", 3129, 213_930_297),
        ("vqa", "vilt", 3129, 117_588_537),
        ("nlvr2", "vilt", 0, 113_962_754),
    ],
)
def test_weights_of_the_published_models(
    task: str, architecture: str, answers: int, weights: int
) -> None:
    names = tuple(str(n) for n in range(answers))
    with torch.device("meta"):
        model = backbone(task, architecture, "base")
        head = toy_task(task, toy_data(task, architecture, answers=names), model).build_head(model)
    assert sum(p.numel() for p in Network(model, head).parameters()) == weights


def test_names_of_the_official_heads() -> None:
    head = _network("nlvr2", "uniter")[1].head
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert set(head.state_dict()) == {
        *(f"{side}.{name}" for side in ("attn1", "attn2") for name in attention),
        *(f"{layer}.{kind}" for layer in ("fc.0", "attn_pool.fc.0") for kind in ("weight", "bias")),
        *("nlvr2_output.weight", "nlvr2_output.bias"),
    }
    layers = {name: _network(*name)[1].head for name in (("vqa", "uniter"), ("vcr", "uniter"))}
    for made in layers.values():
        assert {name.partition(".")[0] for name in made.state_dict()} == {"0", "2", "3"}
    vilt = _network("nlvr2", "vilt")[1].head
    assert {name.partition(".")[0] for name in vilt.state_dict()} == {"0", "1", "3"}


@pytest.mark.parametrize(("task", "architecture"), CELLS)
def test_a_handful_of_examples_can_be_learnt_with_open_eyes_only(
    task: str, architecture: str
) -> None:
    scores = {}
    for blind in (False, True):
        made, net = _network(task, architecture, options=(("blind", blind),))
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        batch = made.train_batch(np.arange(len(made.lengths())), CHANCE)
        for _ in range(40):
            loss = made.loss(net(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores[blind] = made.score((net(b), b) for b in made.eval_batches(256, 0))["score"]
    # The held-out examples show the same images, otherwise paired.
    assert scores[False] > 90
    assert scores[True] < 75


@pytest.mark.parametrize(("task", "architecture"), CELLS)
def test_an_example_is_read_alike_alone_and_among_longer_ones(task: str, architecture: str) -> None:
    made, net = _network(task, architecture)
    net.eval()
    rows = np.arange(6)
    with torch.no_grad():
        together = net(made.train_batch(rows, CHANCE))
        alone = torch.cat([net(made.train_batch(rows[n : n + 1], CHANCE)) for n in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("task", "architecture"), CELLS)
def test_batches_hold_what_the_order_counts(task: str, architecture: str) -> None:
    made, _ = _network(task, architecture)
    lengths = made.lengths()
    assert len(lengths) == len(made.lengths())
    sequences = TASKS[task].sequences.get(architecture, 1)
    for example in range(6):
        batch = made.train_batch(np.array([example]), CHANCE)
        assert len(batch["input_ids"]) == sequences
        seen = batch.get("region_mask", batch.get("patch_mask"))
        assert seen is not None
        tokens = batch["text_mask"].sum(dim=1) + seen.flatten(1).sum(dim=1)
        tokens = tokens + (architecture == "vilt")  # the image's own [CLS]
        counted = tokens.sum() if task == "nlvr2" else tokens.max()
        assert counted == lengths[example]


def test_published_token_batches_can_be_laid_out() -> None:
    """With examples as long as the official limits allow."""
    longest = {"vqa": 162, "gqa": 162, "snli_ve": 162, "nlvr2": 324, "vcr": 420}
    for task, length in longest.items():
        order = Order(TASKS[task].recipes["uniter"], np.full(5000, length), seed=0)
        sizes = {len(batch) for batch in order.micro_batches(0)}
        assert max(sizes) * length <= TASKS[task].recipes["uniter"].tokens


@pytest.mark.parametrize(("task", "architecture"), CELLS)
def test_held_out_examples_come_in_one_order(task: str, architecture: str) -> None:
    made, _ = _network(task, architecture)
    labels = "targets" if task in ("vqa", "gqa", "snli_ve") else "labels"
    whole = torch.cat([batch[labels] for batch in made.eval_batches(256, 0)])
    parts = torch.cat([batch[labels] for batch in made.eval_batches(16, 5)])
    per_example = 2 if task == "vcr" else 1
    assert (len(whole), len(parts)) == (per_example * made.num_eval, per_example * 5)
    assert torch.equal(whole[: len(parts)], parts)
    for batch in made.eval_batches(16, 5):
        assert len(batch["input_ids"]) <= 16


def test_divergence_is_a_sum_over_classes_and_a_mean_over_rows() -> None:
    made, _ = _network("vcr", "uniter")
    clean, perturbed = torch.randn(8, 2), torch.randn(8, 2)
    p, q = clean.softmax(dim=1), perturbed.softmax(dim=1)
    by_hand = ((p - q) * (p.log() - q.log())).sum() / 8
    torch.testing.assert_close(made.divergence(clean, perturbed, {}), by_hand)
    assert made.divergence(clean, clean, {}) == 0


def test_blind_batches_differ_in_the_image_only() -> None:
    for task, architecture in CELLS:
        open_eyes, blind = (
            _network(task, architecture, options=(("blind", value),))[0].train_batch(
                np.arange(4), CHANCE
            )
            for value in (False, True)
        )
        for name, value in open_eyes.items():
            assert value.shape == blind[name].shape
            says = name in ("region_features", "region_boxes", "pixel_values")
            assert bool((blind[name] == 0).all()) if says else torch.equal(value, blind[name])


def test_data_that_does_not_fit_is_refused_in_one_line() -> None:
    data = toy_data("vqa", "uniter")
    cases = [
        ((("vocab_size", 100),), "raise its vocab_size"),
        ((("max_position_embeddings", 3),), "raise its max_position_embeddings"),
        ((("region_dim", 64),), "set its region_dim"),
    ]
    for overrides, cure in cases:
        with pytest.raises(DataError, match=cure):
            fit.check(data, backbone("vqa", "uniter", overrides=overrides), NOWHERE.data)
    with pytest.raises(TrainableError, match="task vqa: no option 'blur'; options: blind"):
        toy_task("vqa", data, backbone("vqa", "uniter"), options=(("blur", 2),))


def test_heads_are_drawn_from_the_current_generator() -> None:
    for task, architecture in CELLS:
        made, net = _network(task, architecture)
        torch.manual_seed(5)
        first: nn.Module = made.build_head(net.backbone)
        torch.manual_seed(5)
        again = made.build_head(net.backbone)
        for name, value in first.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])
