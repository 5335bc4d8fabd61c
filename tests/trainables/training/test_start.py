from __future__ import annotations

import pytest
import torch

from trainables.errors import RecipeError
from trainables.models import EmbeddingExtension
from trainables.spec import ModelSpec, Start
from trainables.training.start import (
    extend_embeddings,
    extended_backbone,
    init_backbone,
    shuffle_across_depth,
    shuffle_within_layer,
    start_weights,
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
    after = shuffle_within_layer(before, 0)
    for name, value in before.items():
        assert torch.equal(after[name].flatten().sort().values, value.flatten().sort().values)
        assert not torch.equal(after[name], value)
    moved = shuffle_within_layer(before, 1)
    assert not torch.equal(after["pooler.weight"], moved["pooler.weight"])


@pytest.mark.parametrize("depth", [2, 3, 12])
def test_across_depth_moves_every_layer(depth: int) -> None:
    before = layers(depth)
    after = shuffle_across_depth(before, 0)
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
    assert all(target != source for target, source in enumerate(sources[0]))


def test_a_single_layer_cannot_be_shuffled_across_depth() -> None:
    with pytest.raises(RecipeError, match="two layers"):
        shuffle_across_depth(layers(1), 0)


@pytest.mark.parametrize("shuffle", ["within_layer", "across_depth"])
def test_only_prunable_weights_are_shuffled(shuffle: str) -> None:
    backbone = init_backbone(MODEL, 0, 0.0)
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


def test_random_weights_depend_only_on_the_seed() -> None:
    first = init_backbone(MODEL, 3, 0.1).state_dict()
    torch.manual_seed(99)
    again = init_backbone(MODEL, 3, 0.0).state_dict()
    other = init_backbone(MODEL, 4, 0.0).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(first[name], other[name])


WORD_TABLE = "embeddings.word_embeddings.weight"
TYPE_TABLE = "embeddings.token_type_embeddings.weight"


def test_extending_an_embedding_keeps_its_rows() -> None:
    extensions = (
        EmbeddingExtension(setting="vocab_size", weight=WORD_TABLE, extra_rows=5, init_row=None),
        EmbeddingExtension(setting="type_vocab_size", weight=TYPE_TABLE, extra_rows=2, init_row=0),
    )
    expected = extended_backbone(MODEL, extensions, 0.0).state_dict()
    before = {f"backbone.{n}": v for n, v in init_backbone(MODEL, 0, 0.0).state_dict().items()}
    after = extend_embeddings(before, extensions, expected, seed=3)
    assert {name: value.shape for name, value in after.items()} == {
        f"backbone.{name}": value.shape for name, value in expected.items()
    }
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)], value)
    for row in after[f"backbone.{TYPE_TABLE}"][-2:]:
        assert torch.equal(row, before[f"backbone.{TYPE_TABLE}"][0])
    drawn = after[f"backbone.{WORD_TABLE}"][-5:]
    assert drawn.std() == pytest.approx(float(before[f"backbone.{WORD_TABLE}"].std()), rel=0.2)
    again, other = (
        extend_embeddings(before, extensions, expected, seed)[f"backbone.{WORD_TABLE}"]
        for seed in (3, 4)
    )
    assert torch.equal(again[-5:], drawn)
    assert not torch.equal(other[-5:], drawn)
    # A rewind point of the task itself already has the rows.
    assert extend_embeddings(after, extensions, expected, seed=4) == after
