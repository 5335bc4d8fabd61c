"""A model from outside the package: convolutions and BatchNorm, pixels and no text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support import toy_runs
from tests.support.runs import RecordingSink
from trainables.errors import CheckpointError, ModelError, RecipeError
from trainables.models import (
    MODELS,
    HeadStyle,
    check_adversary,
    check_model,
    model_config,
    pool_sizes,
)
from trainables.run import prune, run
from trainables.spec import Recipe, Start
from trainables.tasks import default_recipe
from trainables.training.start import init_backbone, model_module, start_weights

KERNEL = "blocks.1.conv2.weight"


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with toy_runs.installed():
        yield


def test_pools_are_those_of_the_network_and_follow_overrides() -> None:
    assert pool_sizes(toy_runs.model()) == {
        "convolutions": 8 * 3 * 9 + 4 * 64 * 9,
        "blocks": 4 * 64 * 9,
    }
    wide = toy_runs.model(hidden_size=16, blocks=1)
    assert pool_sizes(wide)["blocks"] == 2 * 256 * 9
    state = init_backbone(wide, 0, 0.0).state_dict()
    for shapes in model_config(wide).pools().values():
        assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("image_size", 7, "model toy_model: image_size 7 is odd; give an even number"),
        ("vocab_size", 9, "no setting 'vocab_size'; did you mean `image_size`"),
    ],
)
def test_its_own_rules_are_checked_without_building_it(
    setting: str, value: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_model(toy_runs.model(**{setting: value}))


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ("pixels", "head.pairs = attention needs regions, the model reads pixels"),
        ("regions", "head.pairs = attention needs a setting num_attention_heads that divides"),
    ],
)
def test_attention_between_two_images_needs_regions_and_heads(modality: Any, message: str) -> None:
    head = HeadStyle(pairs="attention")
    entry = replace(MODELS["toy_model"], modality=modality, head=head)
    MODELS.add("toy_model", entry, "0" * 64)
    with pytest.raises(ModelError, match=f"model toy_model: {message}"):
        check_model(toy_runs.model())


def test_a_task_with_texts_refuses_it_and_its_own_task_takes_it() -> None:
    with pytest.raises(RecipeError, match="task vqa has texts, which toy_model does not read"):
        default_recipe("vqa", "toy_model")
    with pytest.raises(RecipeError, match="does not support vilt; use a model of toy_model"):
        default_recipe("toy_model", "vilt")
    assert default_recipe("toy_model", "toy_model").steps == 12


def test_an_adversary_of_texts_refuses_it() -> None:
    check_adversary(Recipe(adversary="image"), "toy_model")
    for adversary in ("text", "both", "alternate"):
        with pytest.raises(RecipeError, match=f"adversary = {adversary} perturbs texts"):
            check_adversary(Recipe(adversary=adversary), "toy_model")  # type: ignore[arg-type]


def test_an_adversary_of_images_trains_it(tmp_path: Path) -> None:
    data = toy_runs.write_data(tmp_path)
    recipe = replace(toy_runs.RECIPE, steps=2, adversary="image")
    plain = replace(recipe, adversary="none")
    adversarial, clean = (
        run(toy_runs.spec(data, recipe=each), toy_runs.inputs(data), RecordingSink())
        for each in (recipe, plain)
    )
    assert adversarial.checks["final_sha256"] != clean.checks["final_sha256"]


def test_a_model_can_bring_the_recipe_for_a_task_that_does_not_list_it() -> None:
    with pytest.raises(RecipeError, match="does not support lxmert"):
        default_recipe("easy_vqa", "lxmert")
    recipe = toy_runs.RECIPE
    entry = replace(MODELS["toy_model"], tokenizer="bpe", recipes={"easy_vqa": recipe})
    MODELS.add("toy_model", entry, "0" * 64)
    assert default_recipe("easy_vqa", "toy_model") == recipe


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_kernels_are_pruned_like_matrices(scope: Any, method: str) -> None:
    rule = {"method": method, "scope": scope, "start": Start(seed=3)}
    ticket = prune(toy_runs.prune_spec(**rule), toy_runs.inputs())
    half = ticket.arrays
    state = init_backbone(toy_runs.model(), 3, 0.0).state_dict()
    assert {name: mask.shape for name, mask in half.items()} == {
        name: tuple(state[name].shape) for name in half
    }
    assert len(half) == 5
    kept, total = (sum(each(mask) for mask in half.values()) for each in (np.sum, np.size))
    assert kept == total / 2
    less = prune(toy_runs.prune_spec(**rule, sparsity=0.8), toy_runs.inputs(ticket=ticket))
    assert all(np.all(half[name] >= less.arrays[name]) for name in half)
    if method == "magnitude":
        for name, mask in half.items() if scope == "layer" else ():
            size = state[name].abs().numpy()
            assert size[mask].min() >= size[~mask].max()


@pytest.mark.parametrize("shuffle", ["within_layer", "across_depth"])
def test_shuffled_controls_permute_the_default_pool_only(shuffle: Any) -> None:
    backbone = init_backbone(toy_runs.model(), 0, 0.0)
    start = Start(seed=5)
    plain = start_weights(toy_runs.model(), start, None, None, backbone.prunable)
    shuffled = start_weights(
        toy_runs.model(), replace(start, shuffle=shuffle), None, None, backbone.prunable
    )
    changed = {name for name in plain if not torch.equal(plain[name], shuffled[name])}
    pool = {f"backbone.{name}" for name in backbone.prunable("convolutions")}
    # The stem has no other layer of its shape to change places with.
    assert changed == (pool - {"backbone.stem.weight"} if shuffle == "across_depth" else pool)


def test_a_file_of_weights_and_buffers_is_loaded_in_the_dtypes_of_the_model(
    tmp_path: Path,
) -> None:
    spec = toy_runs.model()
    state = init_backbone(spec, 1, 0.0).state_dict()
    counter, mean = "norm.num_batches_tracked", "norm.running_mean"
    state[counter] = torch.tensor(2**53 + 1)  # not a float64, and even less a float32
    state[mean] = torch.arange(8.0)
    save_file({**state, "head.0.bias": torch.zeros(4)}, tmp_path / "toy.safetensors")
    loaded = model_module(spec).load(tmp_path / "toy.safetensors", spec)
    assert loaded.heads.keys() == {"head.0.bias"}
    assert all(torch.equal(loaded.backbone[name], value) for name, value in state.items())
    assert loaded.backbone[counter].dtype == torch.int64
    del state[mean]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(norm\.running_mean\)"):
        model_module(spec).load(tmp_path / "less.safetensors", spec)
