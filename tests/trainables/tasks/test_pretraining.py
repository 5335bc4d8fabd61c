"""UNITER's pre-training: masking, the losses, and a round with a ticket applied."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.support.image_text_pairs import (
    CLASSES,
    MASK,
    VOCABULARY,
    WORD,
    backbone,
    build_task,
    caption_data,
)
from trainables.data.schema.examples import Data, Regions
from trainables.distributed.launch import ParentCall, run_processes
from trainables.distributed.process import prepare_process
from trainables.errors import CheckpointError, DataError, TrainableError
from trainables.models.base import Backbone
from trainables.run import RunInputs, RunOutcome, prune, train_network
from trainables.seeds import Rng
from trainables.spec import ModelSpec, PruneSpec, Recipe, Seeds, TaskSpec, TrainSpec
from trainables.tasks import transport
from trainables.tasks.masking import mask_regions, mask_words
from trainables.tasks.mixture import OBJECTIVE_NAMES, parse_mixture
from trainables.tasks.objectives import OBJECTIVES, pretraining_objective
from trainables.training.checkpoint import decode_checkpoint
from trainables.training.evaluate import evaluate
from trainables.training.network import Network
from trainables.training.sink import Action

ALL = tuple(OBJECTIVES)


@pytest.fixture(scope="module")
def data() -> Data:
    return caption_data(48, 2)


@pytest.fixture
def model() -> Backbone:
    return backbone("uniter")


@pytest.fixture
def task(data: Data, model: Backbone) -> Any:
    return build_task("pretraining", data, model)


def batch_of(objective: str, data: Data, count: int = 32, **options: Any) -> dict[str, Tensor]:
    """Return the first batch of held-out examples with this objective; it is always the same."""
    mixture = "mlm:1" if objective == "mlm" else f"mlm:1,{objective}:1"
    task = build_task("pretraining", data, backbone("uniter"), objectives=mixture, **options)
    batch: dict[str, Tensor] = next(
        batch for batch in task.eval_batches(count, 0) if pretraining_objective(batch) == objective
    )
    return batch


def test_words_are_masked_as_in_bert() -> None:
    rows, length = 4000, 12
    ids = 30 + np.arange(rows * length).reshape(rows, length) % 40
    ids[:, 0], ids[:, 9] = VOCABULARY.cls, VOCABULARY.sep
    text = np.tile(np.arange(length) < 10, (rows, 1))
    masked_ids, masked = mask_words(ids, text, VOCABULARY, Rng(0))
    assert not masked[:, [0, 9, 10, 11]].any()
    assert masked.any(axis=1).all()
    # In a row where no word is drawn (probability 0.85^8), the first word is masked.
    assert masked[:, 2:9].mean() == pytest.approx(0.15, abs=0.006)
    assert masked[:, 1].mean() == pytest.approx(0.15 + 0.85**8, abs=0.02)
    assert (masked_ids == ids)[~masked].all()
    new, old = masked_ids[:, 2:9][masked[:, 2:9]], ids[:, 2:9][masked[:, 2:9]]
    assert (new == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (new == old).mean() == pytest.approx(0.1, abs=0.02)
    random = new[(new != MASK) & (new != old)]
    assert VOCABULARY.first <= random.min() < 10
    assert 120 < random.max() < VOCABULARY.size


def test_at_least_one_region_is_masked() -> None:
    lengths = np.arange(4000) % 5 + 1
    regions = np.arange(6) < lengths[:, None]
    masked = mask_regions(regions, Rng(0))
    assert not (masked & ~regions).any()
    assert masked.any(axis=1).all()
    longest = lengths == 5
    # 0.15, plus a fifth of the rows in which none is drawn.
    expected = 0.15 + 0.85**5 / 5
    assert masked[longest][:, :5].mean(axis=0) == pytest.approx([expected] * 5, abs=0.05)


def test_each_step_has_one_objective_in_the_published_proportions(task: Any) -> None:
    drawn = []
    for step in range(600):
        kinds = {
            pretraining_objective(task.train_batch(np.arange(2), Rng(3, "batch", step, micro)))
            for micro in range(3)
        }
        assert len(kinds) == 1
        drawn += kinds
    shares = {name: count / 600 for name, count in Counter(drawn).items()}
    expected = {"itm": 6 / 22, "mlm": 8 / 22, "mrfr": 4 / 22, "mrc_kl": 4 / 22}
    assert shares == pytest.approx(expected, abs=0.06)


def test_random_choices_depend_on_the_seed_and_the_micro_batch_only(task: Any, data: Data) -> None:
    again = build_task("pretraining", data, backbone("uniter"))
    rows = np.arange(24)
    for step in range(8):
        one = task.train_batch(rows, Rng(1, "batch", step, 0))
        task.train_batch(rows, Rng(9, "batch", step, 0))
        two = again.train_batch(rows, Rng(1, "batch", step, 0))
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    mlm = [build_task("pretraining", data, backbone("uniter"), objectives="mlm:1")] * 2
    micro = [
        task.train_batch(rows, Rng(1, "batch", 0, number))["input_ids"]
        for number, task in enumerate(mlm)
    ]
    assert not torch.equal(*micro)


def test_masked_words_are_predicted_by_the_word_embeddings(
    data: Data, task: Any, model: Backbone
) -> None:
    batch = batch_of("mlm", data)
    head = task.build_head(model)
    encoded = model(batch)
    logits = head(encoded, batch)
    dense, norm = head.cls["predictions"].transform.values()
    losses = []
    positions = batch["masked_positions"].tolist()
    for position, label in zip(positions, batch["word_labels"].tolist(), strict=True):
        row, column = divmod(position, batch["input_ids"].shape[1])
        assert batch["text_mask"][row, column]
        out = norm(torch.nn.functional.gelu(dense(encoded.text[row, column])))
        scores = model.get_parameter("embeddings.word_embeddings.weight") @ out
        losses.append(cross_entropy(scores + head.cls["predictions"].bias, torch.tensor(label)))
    torch.testing.assert_close(task.loss(logits, batch), torch.stack(losses).mean())


def test_masked_features_are_regressed_through_the_projection(
    data: Data, task: Any, model: Backbone
) -> None:
    batch = batch_of("mrfr", data)
    head = task.build_head(model)
    encoded = model(batch)
    logits = head(encoded, batch)
    masked = batch["masked_regions"]
    assert (batch["region_features"][masked] == 0).all()
    assert (batch["region_features"][~masked & batch["region_mask"]] != 0).any(dim=1).all()
    regions = data.held_out.image_data
    assert isinstance(regions, Regions)
    padded, _ = regions.features.padded(data.held_out.images[:32, 0], np.float32)
    features = torch.from_numpy(padded)
    torch.testing.assert_close(batch["feature_targets"], features[masked])
    projection = model.get_parameter("img_embeddings.img_linear.weight")
    expected = head.feat_regress.net(encoded.image[masked]) @ projection + head.feat_regress.bias
    torch.testing.assert_close(logits, expected)
    error = (expected - features[masked]).square().mean()
    torch.testing.assert_close(task.loss(logits, batch), error)


def test_class_divergence_is_the_mean_over_all_elements(
    data: Data, task: Any, model: Backbone
) -> None:
    batch = batch_of("mrc_kl", data)
    head = task.build_head(model)
    logits = head(model(batch), batch)
    target = batch["class_targets"]
    assert target.shape == logits.shape == (int(batch["masked_regions"].sum()), CLASSES + 1)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(len(target)), atol=1e-2, rtol=0)
    expected = (target * (target.log() - logits.log_softmax(dim=1))).sum() / target.numel()
    torch.testing.assert_close(task.loss(logits, batch), expected)


def test_matching_loss_includes_word_region_alignment(
    data: Data, task: Any, model: Backbone
) -> None:
    batch = batch_of("itm", data)
    head = task.build_head(model)
    encoded = model(batch)
    logits = head(encoded, batch)
    cost = transport.distance(encoded.text, encoded.image, batch["text_mask"], batch["region_mask"])
    matched = batch["matched"]
    aligned = (cost[matched == 1].sum() - cost[matched == 0].sum()) / len(cost)
    entropy = cross_entropy(head.itm_output(encoded.pooled), matched)
    torch.testing.assert_close(task.loss(logits, batch), entropy + 0.1 * aligned)


def test_half_of_the_images_are_replaced(data: Data) -> None:
    regions = data.held_out.image_data
    assert isinstance(regions, Regions)
    batch = batch_of("itm", data, count=96)
    true_features = regions.features.padded(data.held_out.images[:, 0], np.float32)[0]
    width = true_features.shape[1]
    same = (batch["region_features"][:, :width].numpy() == true_features).all(axis=(1, 2))
    assert same.tolist() == (batch["matched"] == 1).tolist()
    assert 30 < same.sum() < 66


def test_the_model_has_as_many_weights_as_the_published_one_with_tied_ones_counted_once() -> None:
    small = caption_data(2, 1)
    regions = small.train.image_data
    assert isinstance(regions, Regions)
    assert regions.classes is not None
    classes = replace(regions.classes, values=[np.zeros((0, 1601), np.float16)])
    image_data = replace(regions, classes=classes)
    official = replace(small, train=replace(small.train, image_data=image_data))
    with torch.device("meta"):
        model = backbone("uniter", "base")
        head = build_task("pretraining", official, model).build_head(model)
    net = Network(model, head)
    assert sum(p.numel() for p in net.parameters()) == 112_938_887
    layers = {
        "cls.predictions": ("transform.dense", "transform.LayerNorm"),
        "feat_regress": ("net.0", "net.2"),
        "region_classifier": ("net.0", "net.2", "net.3"),
    }
    assert set(head.state_dict()) == {
        *(
            f"{part}.{layer}.{kind}"
            for part, each in layers.items()
            for layer in each
            for kind in ("weight", "bias")
        ),
        *("cls.predictions.bias", "feat_regress.bias", "itm_output.weight", "itm_output.bias"),
    }


def test_tied_weights_follow_the_backbone(data: Data, task: Any, model: Backbone) -> None:
    head = task.build_head(model)
    batch = batch_of("mlm", data)
    before = head(model(batch), batch)
    for name in ("embeddings.word_embeddings.weight", "img_embeddings.img_linear.weight"):
        with torch.no_grad():
            model.get_parameter(name).mul_(2)
    assert not torch.allclose(head(model(batch), batch), before)
    table = model.get_parameter("embeddings.word_embeddings.weight")
    task.loss(head(model(batch), batch), batch).backward()
    assert table.grad is not None
    not_in_input = torch.ones(128, dtype=torch.bool)
    not_in_input[batch["input_ids"].flatten()] = False
    assert (table.grad[not_in_input] != 0).any()  # gradients as output weights


def test_the_head_is_initialised_from_the_checkpoint(task: Any, model: Backbone) -> None:
    drawn = task.build_head(model).state_dict()
    published = {name: torch.randn_like(value) for name, value in drawn.items()}
    tied = {"cls.predictions.decoder.weight": torch.zeros(128, 64)}
    initialised = task.init_from_pretrained(drawn, published | tied)
    assert initialised.keys() == drawn.keys()
    assert all(torch.equal(initialised[name], published[name]) for name in drawn)
    words = {name: value for name, value in published.items() if name.startswith("cls.")}
    partly = task.init_from_pretrained(drawn, words)
    assert torch.equal(partly["cls.predictions.bias"], words["cls.predictions.bias"])
    assert torch.equal(partly["itm_output.weight"], drawn["itm_output.weight"])
    wrong = {"region_classifier.net.3.bias": torch.zeros(1601)}
    with pytest.raises(CheckpointError, match=r"net.3.bias \(1601,\) in the checkpoint, \(9,\)"):
        task.init_from_pretrained(drawn, wrong)


def test_divergence_of_each_objective(data: Data, task: Any) -> None:
    def symmetric(clean: Tensor, moved: Tensor) -> Tensor:
        p, q = clean.softmax(-1), moved.softmax(-1)
        return ((p - q) * (p.log() - q.log())).sum(-1).mean()

    for name in ALL:
        batch = batch_of(name, data)
        clean, moved = torch.randn(2, 5, 3).double()
        divergence = task.divergence(clean, moved, batch)
        if name == "mrfr":
            expected = (clean - moved).square().mean()
        elif name == "itm":
            expected = symmetric(clean[:, :2], moved[:, :2])
        else:
            expected = symmetric(clean, moved)
        torch.testing.assert_close(divergence, expected)


def test_scores_and_prior(data: Data, task: Any, model: Backbone) -> None:
    net = Network(model, task.build_head(model))
    scores = evaluate(net, task, 0, "cpu")
    assert scores.keys() == {"score", "itm", "mrfr", "mrc_kl"}
    assert evaluate(net, task, 0, "cpu") == scores
    batches = [batch for batch in task.eval_batches(16, 0) if pretraining_objective(batch) == "mlm"]
    assert len(batches) == 6
    right = total = 0.0
    with torch.no_grad():
        for batch in batches:
            right += (net(batch).argmax(dim=1) == batch["word_labels"]).sum().item()
            total += len(batch["word_labels"])
    parts = task.score((net(batch), batch) for batch in task.eval_batches(16, 0))
    assert parts["score"] == pytest.approx(100 * right / total)
    words = Counter(
        word for row in data.held_out.texts.rows(np.arange(96)) for word in row[1:-1].tolist()
    )
    train = Counter(
        word for row in data.train.texts.rows(np.arange(96)) for word in row[1:-1].tolist()
    )
    most_frequent = max(sorted(train), key=train.__getitem__)
    assert WORD <= most_frequent < WORD + CLASSES
    assert task.prior == pytest.approx(100 * words[most_frequent] / words.total())


def test_blind_zeroes_regions_and_keeps_the_targets(data: Data) -> None:
    for name in ALL:
        full, blind = (batch_of(name, data, blind=each) for each in (False, True))
        assert not blind["region_features"].any()
        assert not blind["region_boxes"].any()
        targets = OBJECTIVES[name].targets
        assert torch.equal(blind[targets], full[targets])


@pytest.mark.parametrize(
    "objectives", ["", "itm:6", "mlm", "mlm:0", "mlm:1,mlm:2", "mlm:1,mrc:2", "mlm:x", "mlm:-1"]
)
def test_an_invalid_mixture_is_an_error(objectives: str) -> None:
    with pytest.raises(
        TrainableError, match=r"objectives = .*; give some of itm, mlm, mrfr, mrc_kl"
    ):
        parse_mixture(objectives)


def test_the_names_that_planning_checks_are_those_of_the_objectives() -> None:
    assert (*OBJECTIVES,) == OBJECTIVE_NAMES


def test_class_probabilities_are_needed_for_their_objective_only(data: Data) -> None:
    regions = data.train.image_data
    assert isinstance(regions, Regions)
    train = replace(data.train, image_data=replace(regions, classes=None))
    without = replace(data, train=train)
    with pytest.raises(DataError, match="no class probabilities"):
        build_task("pretraining", without, backbone("uniter"))
    model = backbone("uniter")
    task = build_task("pretraining", without, model, objectives="mlm:1,mrfr:1")
    heads = {name.partition(".")[0] for name in task.build_head(model).state_dict()}
    assert heads == {"cls", "feat_regress"}


# A round: two steps with a ticket applied that prune the next one; and an interrupted one.

TINY = ModelSpec(architecture="uniter", size="tiny")


class MemorySink:
    """A sink that keeps all results in memory and may stop the run at its first checkpoint."""

    def __init__(self, stop: bool = False) -> None:
        self.stop = stop
        self.rewinds: dict[int, bytes] = {}
        self.tickets: dict[str, Any] = {}
        self.saved = b""

    def rewind(self, step: int, payload: bytes) -> None:
        self.rewinds[step] = payload

    def ticket(self, key: str, ticket: Any) -> None:
        self.tickets[key] = ticket

    def checkpoint(self, payload: bytes) -> None:
        self.saved = payload
        if self.stop:
            raise KeyboardInterrupt

    def heartbeat(self) -> None:
        pass

    def next_action(self, step: int) -> Action:
        return "save" if self.stop else "continue"

    def progress(self, step: int, values: Any) -> None:
        pass


def run_round(
    data: Data, sink: MemorySink, recipe: Recipe, ticket: Any = None, **inputs: Any
) -> RunOutcome:
    prepare_process("cpu", 1)
    spec = TrainSpec(
        model=TINY,
        task=TaskSpec(name="pretraining", data="d"),
        recipe=recipe,
        seeds=Seeds(data=1),
        ticket="ticket" if ticket else "",
    )
    model = backbone("uniter")
    given = RunInputs(data=Path("unused"), cache=Path("unused"), ticket=ticket, **inputs)
    child = PruneSpec(model=TINY, sparsity=0.5, run="parent")
    return train_network(
        spec,
        model,
        build_task("pretraining", data, model),
        given,
        sink,
        prunes={"next": child} if ticket else {},
        rewinds={recipe.steps},
        until=None,
    )


RECIPE = Recipe(steps=2, tokens=160, batch_size=2, accumulate=2, lr=1e-3, clip_norm=5 / 6)


@pytest.mark.parametrize("mode", [{}, {"precision": "bf16", "zero": 2}], ids=str)
def test_a_round_keeps_its_ticket_and_prunes_the_next(data: Data, mode: dict[str, Any]) -> None:
    random = PruneSpec(model=TINY, method="random", sparsity=0.3)
    ticket = prune(random, RunInputs(data=Path("unused"), cache=Path("unused")))
    sink = MemorySink()
    outcome = run_round(data, sink, replace(RECIPE, **mode), ticket)
    assert outcome.checks["pruned_nonzero"] == 0
    assert {"score", "itm", "mrfr", "mrc_kl", "prior"} <= outcome.scores.keys()
    assert all(math.isfinite(value) for value in outcome.scores.values())
    final, _ = decode_checkpoint(sink.rewinds[2])
    assert "head.cls.predictions.bias" in final
    for name, mask in ticket.arrays.items():
        assert not final[f"backbone.{name}"].numpy()[~mask].any()
        assert (sink.tickets["next"].arrays[name] <= mask).all()


def run_round_in_process(argument: bytes, call: ParentCall) -> tuple[RunOutcome, MemorySink]:
    """Run a round in a separate process, because ZeRO 3 changes the state of the process."""
    sink = MemorySink()
    data, recipe, ticket = pickle.loads(argument)
    return run_round(data, sink, recipe, ticket), sink


@pytest.mark.slow
def test_zero_3_trains_like_zero_2(data: Data) -> None:
    """The head reads weights of the backbone, which ZeRO 3 gathers only on request. 8 steps have
    three of the objectives, and the evaluations all of them."""
    ticket = prune(
        PruneSpec(model=TINY, method="random", sparsity=0.3), RunInputs(data=Path(), cache=Path())
    )
    losses, ends = [], []
    for zero in (2, 3):
        recipe = replace(RECIPE, steps=8, zero=zero)  # type: ignore[arg-type]
        argument = pickle.dumps((data, recipe, ticket))
        outcome, sink = run_processes(
            f"{__name__}:run_round_in_process", argument, lambda *_: None, count=1, device="cpu"
        )
        assert outcome.checks["pruned_nonzero"] == 0
        losses.append([point["loss"] for point in outcome.history])
        ends.append(decode_checkpoint(sink.rewinds[8])[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    two, three = ends
    assert max(float((two[name] - three[name]).abs().max()) for name in two) < RECIPE.lr / 10
    for name, mask in ticket.arrays.items():
        assert not three[f"backbone.{name}"].numpy()[~mask].any()


def test_an_interrupted_round_gives_the_same_result(data: Data) -> None:
    """This includes heads that a step's objective does not use: Adam counts their steps too."""
    recipe = replace(RECIPE, steps=6)
    uninterrupted = run_round(data, MemorySink(), recipe)
    stopped = MemorySink(stop=True)
    with pytest.raises(KeyboardInterrupt):
        run_round(data, stopped, recipe)
    resumed = run_round(data, MemorySink(), recipe, checkpoint=stopped.saved)
    assert resumed.checks == uninterrupted.checks
    assert resumed.scores == uninterrupted.scores
