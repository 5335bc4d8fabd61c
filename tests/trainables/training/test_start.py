from __future__ import annotations

import pytest
import torch

from trainables.errors import RecipeError
from trainables.spec import ModelSpec, Start
from trainables.tasks import Growth
from trainables.training.start import (
    across_depth,
    drawn_backbone,
    grow,
    grown_backbone,
    start_weights,
    within_layer,
)

MODEL = ModelSpec(architecture="uniter", size="tiny")


def layers(depth: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        f"layer.{i}.{role}.weight": torch.randn(shape)
        for i in range(depth)
        for role, shape in {"q": (4, 4), "o": (4, 4), "f": (8, 4)}.items()
    } | {"pooler.weight": torch.randn(4, 4)}


def test_within_layer_permutes_the_entries_of_each_tensor() -> None:
    before = layers(3)
    after = within_layer(before, 0)
    for name, value in before.items():
        assert torch.equal(after[name].flatten().sort().values, value.flatten().sort().values)
        assert not torch.equal(after[name], value)
    moved = within_layer(before, 1)
    assert not torch.equal(after["pooler.weight"], moved["pooler.weight"])


@pytest.mark.parametrize("depth", [2, 3, 12])
def test_across_depth_moves_every_layer_whole(depth: int) -> None:
    before = layers(depth)
    after = across_depth(before, 0)
    assert torch.equal(after["pooler.weight"], before["pooler.weight"])
    sources = []
    for role in ("q", "o", "f"):
        names = [f"layer.{i}.{role}.weight" for i in range(depth)]
        sources.append(
            [
                next(i for i in range(depth) if torch.equal(after[name], before[names[i]]))
                for name in names
            ]
        )
    assert sources[0] == sources[1] == sources[2]
    assert sorted(sources[0]) == list(range(depth))
    assert all(here != source for here, source in enumerate(sources[0]))


def test_a_single_layer_cannot_be_shuffled_across_depth() -> None:
    with pytest.raises(RecipeError, match="two layers"):
        across_depth(layers(1), 0)


@pytest.mark.parametrize("shuffle", ["within_layer", "across_depth"])
def test_only_prunable_weights_are_shuffled(shuffle: str) -> None:
    backbone = drawn_backbone(MODEL, 0, 0.0)
    plain = start_weights(MODEL, Start(), None, None, backbone.prunable)
    mixed = start_weights(
        MODEL,
        Start(shuffle=shuffle),  # type: ignore[arg-type]
        None,
        None,
        backbone.prunable,
    )
    changed = {name for name in plain if not torch.equal(plain[name], mixed[name])}
    pool = {f"backbone.{name}" for name in backbone.prunable("encoder+pooler")}
    pooler = {name for name in pool if "pooler" in name}
    assert changed == (pool if shuffle == "within_layer" else pool - pooler)


def test_a_start_is_drawn_alike_every_time_and_whatever_ran_before() -> None:
    first = drawn_backbone(MODEL, 3, 0.1).state_dict()
    torch.manual_seed(99)
    again = drawn_backbone(MODEL, 3, 0.0).state_dict()
    other = drawn_backbone(MODEL, 4, 0.0).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(first[name], other[name])


WORDS = "embeddings.word_embeddings.weight"
KINDS = "embeddings.token_type_embeddings.weight"


def test_a_task_adds_rows_to_tables_that_keep_theirs() -> None:
    growths = (
        Growth(setting="vocab_size", weight=WORDS, extra=5, like=None),
        Growth(setting="type_vocab_size", weight=KINDS, extra=2, like=0),
    )
    expected = grown_backbone(MODEL, growths, 0.0).state_dict()
    before = {f"backbone.{n}": v for n, v in drawn_backbone(MODEL, 0, 0.0).state_dict().items()}
    after = grow(before, growths, expected, seed=3)
    assert {name: value.shape for name, value in after.items()} == {
        f"backbone.{name}": value.shape for name, value in expected.items()
    }
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)], value)
    for row in after[f"backbone.{KINDS}"][-2:]:
        assert torch.equal(row, before[f"backbone.{KINDS}"][0])
    drawn = after[f"backbone.{WORDS}"][-5:]
    assert drawn.std() == pytest.approx(float(before[f"backbone.{WORDS}"].std()), rel=0.2)
    again, other = (grow(before, growths, expected, seed)[f"backbone.{WORDS}"] for seed in (3, 4))
    assert torch.equal(again[-5:], drawn)
    assert not torch.equal(other[-5:], drawn)
    # A rewind point of the task itself has its rows already.
    assert grow(after, growths, expected, seed=4) == after
