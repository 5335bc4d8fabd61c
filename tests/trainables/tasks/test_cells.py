"""Every task with every architecture that the authors of VLT or METER trained on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.toy_tasks import (
    FINE_TUNING_TASKS,
    TASK_MODEL_PAIRS,
    UNUSED_SOURCE,
    backbone,
    toy_data,
    toy_task,
)
from trainables.errors import DataError, TrainableError
from trainables.seeds import Rng
from trainables.tasks import TASKS, common, sequences_per_example
from trainables.training.network import Network
from trainables.training.order import BatchOrder

RNG = Rng(0)


def _network(task: str, architecture: str, **more: Any) -> tuple[Any, Network]:
    model = backbone(task, architecture)
    toy = toy_task(task, toy_data(task, architecture), model, **more)
    torch.manual_seed(1)
    return toy, Network(model, toy.build_head(model))


def test_tasks_and_models_are_those_of_vlt_and_vilt_on_snli_ve() -> None:
    assert {
        *((task, "uniter") for task in FINE_TUNING_TASKS),
        *((task, "lxmert") for task in ("vqa", "gqa", "nlvr2")),
        *((task, "vilt") for task in ("vqa", "nlvr2", "snli_ve")),
    } == set(TASK_MODEL_PAIRS)


# Weights of the official models with their heads. For VCR, UNITER's vocabulary has 81 extra words.
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
def test_models_have_as_many_weights_as_the_published_ones(
    task: str, architecture: str, answers: int, weights: int
) -> None:
    names = tuple(str(n) for n in range(answers))
    with torch.device("meta"):
        model = backbone(task, architecture, "base")
        head = toy_task(task, toy_data(task, architecture, answers=names), model).build_head(model)
    assert sum(p.numel() for p in Network(model, head).parameters()) == weights


def test_heads_have_the_official_parameter_names() -> None:
    head = _network("nlvr2", "uniter")[1].head
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert set(head.state_dict()) == {
        *(f"{side}.{name}" for side in ("attn1", "attn2") for name in attention),
        *(f"{layer}.{kind}" for layer in ("fc.0", "attn_pool.fc.0") for kind in ("weight", "bias")),
        *("nlvr2_output.weight", "nlvr2_output.bias"),
    }
    layers = {name: _network(*name)[1].head for name in (("vqa", "uniter"), ("vcr", "uniter"))}
    for toy in layers.values():
        assert {name.partition(".")[0] for name in toy.state_dict()} == {"0", "2", "3"}
    vilt = _network("nlvr2", "vilt")[1].head
    assert {name.partition(".")[0] for name in vilt.state_dict()} == {"0", "1", "3"}


@pytest.mark.parametrize(("task", "architecture"), TASK_MODEL_PAIRS)
def test_a_few_examples_can_be_learned_with_images_only(task: str, architecture: str) -> None:
    scores = {}
    for blind in (False, True):
        toy, net = _network(task, architecture, options=(("blind", blind),))
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        batch = toy.train_batch(np.arange(len(toy.lengths())), RNG)
        for _ in range(40):
            loss = toy.loss(net(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores[blind] = toy.score((net(b), b) for b in toy.eval_batches(256, 0))["score"]
    # The held-out examples have the same images, paired differently.
    assert scores[False] > 90
    assert scores[True] < 75


@pytest.mark.parametrize(("task", "architecture"), TASK_MODEL_PAIRS)
def test_an_example_gives_the_same_logits_alone_and_in_a_batch(
    task: str, architecture: str
) -> None:
    toy, net = _network(task, architecture)
    net.eval()
    rows = np.arange(6)
    with torch.no_grad():
        together = net(toy.train_batch(rows, RNG))
        alone = torch.cat([net(toy.train_batch(rows[n : n + 1], RNG)) for n in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("task", "architecture"), TASK_MODEL_PAIRS)
def test_batches_have_the_lengths_that_the_task_reports(task: str, architecture: str) -> None:
    toy, _ = _network(task, architecture)
    lengths = toy.lengths()
    assert len(lengths) == len(toy.lengths())
    sequences = sequences_per_example(task, architecture)
    for example in range(6):
        batch = toy.train_batch(np.array([example]), RNG)
        assert len(batch["input_ids"]) == sequences
        image_mask = batch.get("region_mask", batch.get("patch_mask"))
        assert image_mask is not None
        tokens = batch["text_mask"].sum(dim=1) + image_mask.flatten(1).sum(dim=1)
        tokens = tokens + (architecture == "vilt")  # the image's own [CLS]
        expected = tokens.sum() if task == "nlvr2" else tokens.max()
        assert expected == lengths[example]


def test_published_token_batches_fit_the_longest_examples() -> None:
    """Examples have the maximum length that the official limits allow."""
    longest = {"vqa": 162, "gqa": 162, "snli_ve": 162, "nlvr2": 324, "vcr": 420}
    for task, length in longest.items():
        order = BatchOrder(TASKS[task].recipes["uniter"], np.full(5000, length), seed=0)
        sizes = {len(batch) for batch in order.micro_batches(0)}
        assert max(sizes) * length <= TASKS[task].recipes["uniter"].tokens


@pytest.mark.parametrize(
    ("task", "architecture", "evaluations"),
    [
        # LXMERT's 4 epochs.
        ("vqa", "lxmert", 4),
        ("gqa", "lxmert", 4),
        ("nlvr2", "lxmert", 4),
        # ViLT's 10 epochs, of VQA each tenth of one; METER's 5.
        ("vqa", "vilt", 100),
        ("nlvr2", "vilt", 10),
        ("retrieval", "vilt", 10),
        ("snli_ve", "vilt", 5),
        # 10,000 steps of 128 are 10.65 epochs.
        ("refcoco", "uniter", 11),
    ],
)
def test_the_best_epoch_counts_where_the_authors_keep_it(
    task: str, architecture: str, evaluations: int
) -> None:
    recipe = TASKS[task].recipes[architecture]
    evaluated = {*range(recipe.eval_every, recipe.steps, recipe.eval_every), recipe.steps}
    assert (recipe.score, len(evaluated)) == ("best", evaluations)


@pytest.mark.parametrize(("task", "special"), [("vqa", 2), ("snli_ve", 2), ("nlvr2", 4)])
def test_uniter_counts_words_without_cls_and_sep(task: str, special: int) -> None:
    toy, _ = _network(task, "uniter")
    np.testing.assert_array_equal(toy.uniter_lengths(), toy.lengths() - special)


@pytest.mark.parametrize(("task", "architecture"), TASK_MODEL_PAIRS)
def test_held_out_examples_have_a_fixed_order(task: str, architecture: str) -> None:
    toy, _ = _network(task, architecture)
    labels = "targets" if task in ("vqa", "gqa", "snli_ve") else "labels"
    every = torch.cat([batch[labels] for batch in toy.eval_batches(256, 0)])
    first = torch.cat([batch[labels] for batch in toy.eval_batches(16, 5)])
    per_example = 2 if task == "vcr" else 1
    assert (len(every), len(first)) == (per_example * toy.num_eval, per_example * 5)
    assert torch.equal(every[: len(first)], first)
    for batch in toy.eval_batches(16, 5):
        assert len(batch["input_ids"]) <= 16


def test_divergence_is_summed_over_classes_and_averaged_over_rows() -> None:
    toy, _ = _network("vcr", "uniter")
    clean, perturbed = torch.randn(8, 2), torch.randn(8, 2)
    p, q = clean.softmax(dim=1), perturbed.softmax(dim=1)
    by_hand = ((p - q) * (p.log() - q.log())).sum() / 8
    torch.testing.assert_close(toy.divergence(clean, perturbed, {}), by_hand)
    assert toy.divergence(clean, clean, {}) == 0


def test_blind_batches_differ_in_the_image_only() -> None:
    for task, architecture in TASK_MODEL_PAIRS:
        full, blind = (
            _network(task, architecture, options=(("blind", value),))[0].train_batch(
                np.arange(4), RNG
            )
            for value in (False, True)
        )
        for name, value in full.items():
            assert value.shape == blind[name].shape
            if name in ("region_features", "region_boxes", "pixel_values"):
                assert bool((blind[name] == 0).all())
            else:
                assert torch.equal(value, blind[name])


def test_data_that_do_not_fit_the_model_are_an_error() -> None:
    data = toy_data("vqa", "uniter")
    cases = [
        ((("vocab_size", 100),), "raise its vocab_size"),
        ((("max_position_embeddings", 3),), "raise its max_position_embeddings"),
        ((("region_dim", 64),), "set its region_dim"),
    ]
    for overrides, advice in cases:
        with pytest.raises(DataError, match=advice):
            common.check_data_fits(
                data, backbone("vqa", "uniter", overrides=overrides), UNUSED_SOURCE.location
            )
    with pytest.raises(TrainableError, match="task vqa: no option 'blur'; use one of blind"):
        toy_task("vqa", data, backbone("vqa", "uniter"), options=(("blur", 2),))


def test_heads_are_initialised_from_the_current_generator() -> None:
    for task, architecture in TASK_MODEL_PAIRS:
        toy, net = _network(task, architecture)
        torch.manual_seed(5)
        first: nn.Module = toy.build_head(net.backbone)
        torch.manual_seed(5)
        again = toy.build_head(net.backbone)
        for name, value in first.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])
