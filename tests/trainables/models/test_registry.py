"""The registry of architectures against the built models."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from trainables.errors import ModelError, TrainableError
from trainables.models import MODELS, check_model, model_config, pool_sizes
from trainables.models.base import Backbone
from trainables.spec import ModelSpec

SIZES = [(name, size) for name, entry in MODELS.items() for size in entry.sizes]


def _build_on_meta(spec: ModelSpec) -> Backbone:
    with torch.device("meta"):
        backbone: Backbone = import_module(MODELS[spec.architecture].module).build(
            spec, dropout=0.1
        )
    return backbone


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_registry_counts_match_the_built_model(name: str, size: str) -> None:
    backbone = _build_on_meta(ModelSpec(architecture=name, size=size))
    state = backbone.state_dict()
    spec = ModelSpec(architecture=name, size=size)
    for pool, shapes in model_config(spec).pools().items():
        assert {w: tuple(state[w].shape) for w in shapes} == shapes
        assert backbone.prunable(pool) == list(shapes)
        assert pool_sizes(spec)[pool] == sum(state[w].numel() for w in shapes)


@pytest.mark.parametrize(
    ("name", "size", "pool", "published"),
    [
        # BERT-Tickets counts 72 matrices and the pooler of BERT base; ViT-B has the same blocks.
        ("uniter", "base", "encoder", 84_934_656),
        ("uniter", "base", "encoder+pooler", 85_524_480),
        ("uniter", "large", "encoder", 301_989_888),
        ("uniter", "large", "encoder+pooler", 301_989_888 + 1_048_576),
        ("lxmert", "base", "encoder", 181_665_792),
        ("lxmert", "base", "encoder+pooler", 181_665_792 + 589_824),
        ("lxmert", "base", "encoder-reached", 181_665_792 - 7_077_888),
        ("vilt", "base", "encoder", 84_934_656),
        ("vilt", "base", "encoder+pooler", 85_524_480),
    ],
)
def test_published_pool_sizes(name: str, size: str, pool: str, published: int) -> None:
    backbone = _build_on_meta(ModelSpec(architecture=name, size=size))
    state = backbone.state_dict()
    assert sum(state[weight].numel() for weight in backbone.prunable(pool)) == published


def test_published_numbers_of_matrices() -> None:
    def matrices(name: str, pool: str) -> int:
        return len(_build_on_meta(ModelSpec(architecture=name)).prunable(pool))

    assert matrices("uniter", "encoder") == matrices("vilt", "encoder") == 72
    assert matrices("lxmert", "encoder") == 164
    assert matrices("lxmert", "encoder-reached") == 158


def test_published_parameter_counts() -> None:
    def count(name: str, size: str) -> int:
        return sum(
            p.numel() for p in _build_on_meta(ModelSpec(architecture=name, size=size)).parameters()
        )

    assert count("uniter", "base") == 109_898_752
    assert count("uniter", "large") == 335_695_872
    assert count("lxmert", "base") == 207_936_768
    assert count("vilt", "base") == 111_595_008


@pytest.mark.parametrize("name", MODELS)
def test_pools_are_in_order_of_depth(name: str) -> None:
    backbone = _build_on_meta(ModelSpec(architecture=name, size="base"))
    stacks = ("encoder.layer", "encoder.r_layers", "encoder.x_layers")
    for pool in MODELS[name].sizes["base"].pools():
        names = backbone.prunable(pool)
        if pool == "encoder+pooler":
            assert names.pop() == "pooler.dense.weight"
        parts = [weight.split(".") for weight in names]
        depths = [(stacks.index(".".join(part[:2])), int(part[2])) for part in parts]
        assert depths == sorted(depths)
        assert len(set(names)) == len(names)


def test_overrides_change_the_configuration() -> None:
    spec = ModelSpec(architecture="uniter", size="tiny", overrides=(("num_hidden_layers", 1),))
    assert len(_build_on_meta(spec).prunable("encoder")) == 6
    assert pool_sizes(spec)["encoder"] == 4 * 64 * 64 + 2 * 64 * 256


def test_a_type_table_without_a_row_for_images_is_an_error() -> None:
    for name, setting in (("uniter", "type_vocab_size"), ("vilt", "modality_types")):
        spec = ModelSpec(architecture=name, size="tiny", overrides=((setting, 1),))
        with pytest.raises(ModelError, match=f"{setting} = 1; images are of type 1, so give 2"):
            check_model(spec)


def test_a_patch_of_vilt_fits_into_the_image() -> None:
    def check(**overrides: int) -> None:
        check_model(ModelSpec(architecture="vilt", size="tiny", overrides=(*overrides.items(),)))

    check(image_size=8)
    for overrides in ({"image_size": 7}, {"patch_size": 33}):
        with pytest.raises(ModelError, match="is larger than image_size"):
            check(**overrides)


@pytest.mark.parametrize(
    ("size", "overrides", "message"),
    [
        ("huge", (), "no size 'huge'; use one of tiny, base, large"),
        ("tiny", (("layers", 1),), "no setting 'layers'; use one of hidden_size"),
        ("tiny", (("num_hidden_layers", "two"),), "'two'; give a positive int"),
        ("tiny", (("num_hidden_layers", True),), "True; give a positive int"),
        ("tiny", (("initializer_range", -0.1),), "-0.1; give a positive float"),
        ("tiny", (("initializer_range", math.inf),), "inf; give a positive float"),
        ("tiny", (("initializer_range", math.nan),), "nan; give a positive float"),
        ("tiny", (("hidden_size", 65),), "65 is not a multiple of num_attention_heads 4"),
        ("tiny", (("num_attention_heads", 5),), "64 is not a multiple of num_attention_heads 5"),
    ],
)
def test_invalid_sizes_and_overrides_are_errors(
    size: str, overrides: tuple[tuple[str, int | float | str | bool], ...], message: str
) -> None:
    spec = ModelSpec(architecture="uniter", size=size, overrides=overrides)
    with pytest.raises(ModelError) as caught:
        check_model(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_pool_is_an_error() -> None:
    with pytest.raises(TrainableError, match=r"'all'; pools: encoder, encoder\+pooler"):
        _build_on_meta(ModelSpec(architecture="uniter", size="tiny")).prunable("all")


def test_registries_do_not_import_torch_or_numpy() -> None:
    code = "import sys, trainables.models, trainables.tasks, trainables.data.fingerprint\n"
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
