"""UNITER's pre-training: what is masked, the five losses, and a round under a ticket."""

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
    captioned,
    task_on,
)
from trainables.data.schema.examples import Data, Regions
from trainables.distributed.launch import Call, together
from trainables.distributed.process import prepare_process
from trainables.errors import CheckpointError, DataError, TrainableError
from trainables.models.base import Backbone
from trainables.run import Inputs, Outcome, cut, train_network
from trainables.seeds import Chance
from trainables.spec import CutSpec, ModelSpec, Recipe, Seeds, TaskSpec, TrainSpec
from trainables.tasks import transport
from trainables.tasks.masking import mask_regions, mask_words
from trainables.tasks.objectives import OBJECTIVES, objective_of
from trainables.tasks.pretraining import parse_mixture
from trainables.training.checkpoint import decode
from trainables.training.evaluate import evaluate
from trainables.training.network import Network
from trainables.training.sink import Turn

ALL = tuple(OBJECTIVES)


@pytest.fixture(scope="module")
def data() -> Data:
    return captioned(48, 2)


@pytest.fixture
def model() -> Backbone:
    return backbone("uniter")


@pytest.fixture
def task(data: Data, model: Backbone) -> Any:
    return task_on("pretraining", data, model)


def batch_of(objective: str, data: Data, count: int = 32, **options: Any) -> dict[str, Tensor]:
    """Of held-out examples, so that every draw is the same."""
    mixture = "mlm:1" if objective == "mlm" else f"mlm:1,{objective}:1"
    made = task_on("pretraining", data, backbone("uniter"), objectives=mixture, **options)
    found: dict[str, Tensor] = next(
        batch for batch in made.eval_batches(count, 0) if objective_of(batch) == objective
    )
    return found


def test_words_are_masked_as_in_bert() -> None:
    rows, length = 4000, 12
    ids = 30 + np.arange(rows * length).reshape(rows, length) % 40
    ids[:, 0], ids[:, 9] = VOCABULARY.cls, VOCABULARY.sep
    text = np.tile(np.arange(length) < 10, (rows, 1))
    shown, hidden = mask_words(ids, text, VOCABULARY, Chance(0))
    assert not hidden[:, [0, 9, 10, 11]].any()
    assert hidden.any(axis=1).all()
    # A row with none drawn, of chance 0.85^8, shows its first word masked.
    assert hidden[:, 2:9].mean() == pytest.approx(0.15, abs=0.006)
    assert hidden[:, 1].mean() == pytest.approx(0.15 + 0.85**8, abs=0.02)
    assert (shown == ids)[~hidden].all()
    kinds = shown[:, 2:9][hidden[:, 2:9]], ids[:, 2:9][hidden[:, 2:9]]
    masked, same = kinds[0] == MASK, kinds[0] == kinds[1]
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert same.mean() == pytest.approx(0.1, abs=0.02)
    random = kinds[0][~masked & ~same]
    assert VOCABULARY.first <= random.min() < 10
    assert 120 < random.max() < VOCABULARY.size


def test_regions_are_masked_one_at_least() -> None:
    lengths = np.arange(4000) % 5 + 1
    regions = np.arange(6) < lengths[:, None]
    hidden = mask_regions(regions, Chance(0))
    assert not (hidden & ~regions).any()
    assert hidden.any(axis=1).all()
    alone = lengths == 5
    # 0.15, and a fifth of the rows in which none is drawn.
    expected = 0.15 + 0.85**5 / 5
    assert hidden[alone][:, :5].mean(axis=0) == pytest.approx([expected] * 5, abs=0.05)


def test_one_objective_a_step_in_the_published_proportions(task: Any) -> None:
    drawn = []
    for step in range(600):
        kinds = {
            objective_of(task.train_batch(np.arange(2), Chance(3, "batch", step, micro)))
            for micro in range(3)
        }
        assert len(kinds) == 1
        drawn += kinds
    shares = {name: count / 600 for name, count in Counter(drawn).items()}
    expected = {"itm": 6 / 22, "mlm": 8 / 22, "mrfr": 4 / 22, "mrc_kl": 4 / 22}
    assert shares == pytest.approx(expected, abs=0.06)


def test_what_is_drawn_depends_on_seed_and_place_only(task: Any, data: Data) -> None:
    again = task_on("pretraining", data, backbone("uniter"))
    rows = np.arange(24)
    for step in range(8):
        one = task.train_batch(rows, Chance(1, "batch", step, 0))
        task.train_batch(rows, Chance(9, "batch", step, 0))
        two = again.train_batch(rows, Chance(1, "batch", step, 0))
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    mlm = [task_on("pretraining", data, backbone("uniter"), objectives="mlm:1")] * 2
    micro = [
        made.train_batch(rows, Chance(1, "batch", 0, place))["input_ids"]
        for place, made in enumerate(mlm)
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
    places = batch["places"].tolist()
    for place, label in zip(places, batch["word_labels"].tolist(), strict=True):
        row, column = divmod(place, batch["input_ids"].shape[1])
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
    hidden = batch["masked_regions"]
    assert (batch["region_features"][hidden] == 0).all()
    assert (batch["region_features"][~hidden & batch["region_mask"]] != 0).any(dim=1).all()
    seen = data.held_out.seen
    assert isinstance(seen, Regions)
    whole = torch.from_numpy(seen.features.padded(data.held_out.images[:32, 0], np.float32)[0])
    torch.testing.assert_close(batch["feature_targets"], whole[hidden])
    projection = model.get_parameter("img_embeddings.img_linear.weight")
    expected = head.feat_regress.net(encoded.image[hidden]) @ projection + head.feat_regress.bias
    torch.testing.assert_close(logits, expected)
    error = (expected - whole[hidden]).square().mean()
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


def test_matching_has_word_region_alignment(data: Data, task: Any, model: Backbone) -> None:
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
    seen = data.held_out.seen
    assert isinstance(seen, Regions)
    batch = batch_of("itm", data, count=96)
    own = seen.features.padded(data.held_out.images[:, 0], np.float32)[0]
    width = own.shape[1]
    same = (batch["region_features"][:, :width].numpy() == own).all(axis=(1, 2))
    assert same.tolist() == (batch["matched"] == 1).tolist()
    assert 30 < same.sum() < 66


def test_weights_of_the_published_model_tied_ones_once() -> None:
    small = captioned(2, 1)
    seen = small.train.seen
    assert isinstance(seen, Regions)
    assert seen.classes is not None
    wide = replace(seen.classes, values=[np.zeros((0, 1601), np.float16)])
    official = replace(small, train=replace(small.train, seen=replace(seen, classes=wide)))
    with torch.device("meta"):
        model = backbone("uniter", "base")
        head = task_on("pretraining", official, model).build_head(model)
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
    unseen = torch.ones(128, dtype=torch.bool)
    unseen[batch["input_ids"].flatten()] = False
    assert (table.grad[unseen] != 0).any()  # as an output, not as an input


def test_the_head_goes_on_from_the_checkpoint(task: Any, model: Backbone) -> None:
    drawn = task.build_head(model).state_dict()
    published = {name: torch.randn_like(value) for name, value in drawn.items()}
    tied = {"cls.predictions.decoder.weight": torch.zeros(128, 64)}
    adopted = task.adopt(drawn, published | tied)
    assert adopted.keys() == drawn.keys()
    assert all(torch.equal(adopted[name], published[name]) for name in drawn)
    words = {name: value for name, value in published.items() if name.startswith("cls.")}
    partly = task.adopt(drawn, words)
    assert torch.equal(partly["cls.predictions.bias"], words["cls.predictions.bias"])
    assert torch.equal(partly["itm_output.weight"], drawn["itm_output.weight"])
    wrong = {"region_classifier.net.3.bias": torch.zeros(1601)}
    with pytest.raises(CheckpointError, match=r"net.3.bias \(1601,\) in the checkpoint, \(9,\)"):
        task.adopt(drawn, wrong)


def test_divergence_of_each_objective(data: Data, task: Any) -> None:
    def symmetric(clean: Tensor, moved: Tensor) -> Tensor:
        p, q = clean.softmax(-1), moved.softmax(-1)
        return ((p - q) * (p.log() - q.log())).sum(-1).mean()

    for name in ALL:
        batch = batch_of(name, data)
        clean, moved = torch.randn(2, 5, 3).double()
        found = task.divergence(clean, moved, batch)
        if name == "mrfr":
            expected = (clean - moved).square().mean()
        elif name == "itm":
            expected = symmetric(clean[:, :2], moved[:, :2])
        else:
            expected = symmetric(clean, moved)
        torch.testing.assert_close(found, expected)


def test_scores_and_prior(data: Data, task: Any, model: Backbone) -> None:
    net = Network(model, task.build_head(model))
    scores = evaluate(net, task, 0, "cpu")
    assert scores.keys() == {"score", "itm", "mrfr", "mrc_kl"}
    assert evaluate(net, task, 0, "cpu") == scores
    batches = [batch for batch in task.eval_batches(16, 0) if objective_of(batch) == "mlm"]
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
    most = max(sorted(train), key=train.__getitem__)
    assert WORD <= most < WORD + CLASSES
    assert task.prior == pytest.approx(100 * words[most] / words.total())


def test_blind_hides_regions_and_still_asks_for_them(data: Data) -> None:
    for name in ALL:
        open_eyed, blind = (batch_of(name, data, blind=each) for each in (False, True))
        assert not blind["region_features"].any()
        assert not blind["region_boxes"].any()
        targets = OBJECTIVES[name].targets
        assert torch.equal(blind[targets], open_eyed[targets])


@pytest.mark.parametrize(
    "objectives", ["", "itm:6", "mlm", "mlm:0", "mlm:1,mlm:2", "mlm:1,mrc:2", "mlm:x", "mlm:-1"]
)
def test_a_mixture_that_cannot_be(objectives: str) -> None:
    with pytest.raises(
        TrainableError, match=r"objectives = .*; give some of itm, mlm, mrfr, mrc_kl"
    ):
        parse_mixture(objectives)


def test_class_probabilities_are_needed_for_their_objective_only(data: Data) -> None:
    assert isinstance(data.train.seen, Regions)
    without = replace(data, train=replace(data.train, seen=replace(data.train.seen, classes=None)))
    with pytest.raises(DataError, match="no class probabilities"):
        task_on("pretraining", without, backbone("uniter"))
    model = backbone("uniter")
    made = task_on("pretraining", without, model, objectives="mlm:1,mrfr:1")
    heads = {name.partition(".")[0] for name in made.build_head(model).state_dict()}
    assert heads == {"cls", "feat_regress"}


# A round: two steps under a ticket that cut the next one; and one cut short and resumed.

TINY = ModelSpec(architecture="uniter", size="tiny")


class Kept:
    """A sink that keeps what it is given, and may stop the run at its first checkpoint."""

    def __init__(self, stop: bool = False) -> None:
        self.stop = stop
        self.rewinds: dict[int, bytes] = {}
        self.cuts: dict[str, Any] = {}
        self.saved = b""

    def rewind(self, step: int, payload: bytes) -> None:
        self.rewinds[step] = payload

    def cut(self, key: str, masks: Any) -> None:
        self.cuts[key] = masks

    def checkpoint(self, payload: bytes) -> None:
        self.saved = payload
        if self.stop:
            raise KeyboardInterrupt

    def alive(self) -> None:
        pass

    def turn(self, step: int) -> Turn:
        return "save" if self.stop else "go on"

    def progress(self, step: int, values: Any) -> None:
        pass


def round_of(data: Data, sink: Kept, recipe: Recipe, ticket: Any = None, **inputs: Any) -> Outcome:
    prepare_process("cpu", 1)
    spec = TrainSpec(
        model=TINY,
        task=TaskSpec(name="pretraining", data="d"),
        recipe=recipe,
        seeds=Seeds(data=1),
        ticket="worn" if ticket else "",
    )
    model = backbone("uniter")
    given = Inputs(data=Path("unused"), cache=Path("unused"), ticket=ticket, **inputs)
    child = CutSpec(model=TINY, sparsity=0.5, run="it rides")
    return train_network(
        spec,
        model,
        task_on("pretraining", data, model),
        given,
        sink,
        cuts={"next": child} if ticket else {},
        rewinds={recipe.steps},
        until=None,
    )


RECIPE = Recipe(steps=2, tokens=160, batch_size=2, accumulate=2, lr=1e-3, clip_norm=5 / 6)


@pytest.mark.parametrize("mode", [{}, {"precision": "bf16", "zero": 2}], ids=str)
def test_a_round_keeps_its_ticket_and_cuts_the_next(data: Data, mode: dict[str, Any]) -> None:
    random = CutSpec(model=TINY, method="random", sparsity=0.3)
    ticket = cut(random, Inputs(data=Path("unused"), cache=Path("unused")))
    sink = Kept()
    outcome = round_of(data, sink, replace(RECIPE, **mode), ticket)
    assert outcome.checks["pruned_nonzero"] == 0
    assert {"score", "itm", "mrfr", "mrc_kl", "prior"} <= outcome.scores.keys()
    assert all(math.isfinite(value) for value in outcome.scores.values())
    final, _ = decode(sink.rewinds[2])
    assert "head.cls.predictions.bias" in final
    for name, kept in ticket.items():
        assert not final[f"backbone.{name}"].numpy()[~kept].any()
        assert (sink.cuts["next"][name] <= kept).all()


def apart(argument: bytes, call: Call) -> tuple[Outcome, Kept]:
    """`round_of` in a process of its own, which ZeRO 3 leaves in another state for later trials."""
    sink = Kept()
    data, recipe, ticket = pickle.loads(argument)
    return round_of(data, sink, recipe, ticket), sink


@pytest.mark.slow
def test_zero_3_trains_like_zero_2(data: Data) -> None:
    """The head reads weights that are the backbone's, and at ZeRO 3 are not there unless asked for;
    8 steps meet three objectives, and the evaluations all."""
    ticket = cut(
        CutSpec(model=TINY, method="random", sparsity=0.3), Inputs(data=Path(), cache=Path())
    )
    losses, ends = [], []
    for zero in (2, 3):
        recipe = replace(RECIPE, steps=8, zero=zero)  # type: ignore[arg-type]
        argument = pickle.dumps((data, recipe, ticket))
        outcome, sink = together(
            f"{__name__}:apart", argument, lambda *_: None, count=1, device="cpu"
        )
        assert outcome.checks["pruned_nonzero"] == 0
        losses.append([point["loss"] for point in outcome.history])
        ends.append(decode(sink.rewinds[8])[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    two, three = ends
    assert max(float((two[name] - three[name]).abs().max()) for name in two) < RECIPE.lr / 10
    assert not any(three[f"backbone.{name}"].numpy()[~kept].any() for name, kept in ticket.items())


def test_a_round_that_was_cut_short_ends_the_same(data: Data) -> None:
    """Also the heads that a step's objective left alone: Adam counts that step for them too."""
    recipe = replace(RECIPE, steps=6)
    whole = round_of(data, Kept(), recipe)
    stopped = Kept(stop=True)
    with pytest.raises(KeyboardInterrupt):
        round_of(data, stopped, recipe)
    resumed = round_of(data, Kept(), recipe, checkpoint=stopped.saved)
    assert resumed.checks == whole.checks
    assert resumed.scores == whole.scores
