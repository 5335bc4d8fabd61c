from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import pytest
import torch

from trainables.errors import TrainableError
from trainables.models import MODELS, POOLS
from trainables.models.base import Backbone
from trainables.spec import ModelSpec

SIZES = [(name, size) for name, entry in MODELS.items() for size in entry.sizes]


def _meta(spec: ModelSpec) -> Backbone:
    with torch.device("meta"):
        backbone: Backbone = import_module(MODELS[spec.architecture].module).build(
            spec, dropout=0.1
        )
    return backbone


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_registry_counts_are_those_of_the_built_model(name: str, size: str) -> None:
    backbone = _meta(ModelSpec(architecture=name, size=size))
    state = backbone.state_dict()
    counts = {pool: sum(state[w].numel() for w in backbone.prunable(pool)) for pool in POOLS}
    assert counts == MODELS[name].sizes[size]
    assert all(state[weight].dim() == 2 for weight in backbone.prunable("encoder+pooler"))


def test_published_pool_sizes() -> None:
    # BERT-Tickets counts 72 matrices and the pooler of BERT base; ViT-B has the same blocks.
    for name in MODELS:
        assert MODELS[name].sizes["base"] == {"encoder": 84934656, "encoder+pooler": 85524480}
        assert MODELS[name].sizes["tiny"]["encoder+pooler"] == 102400
    assert MODELS["uniter"].sizes["large"]["encoder"] == 301989888


def test_published_parameter_counts() -> None:
    def count(name: str, size: str) -> int:
        return sum(p.numel() for p in _meta(ModelSpec(architecture=name, size=size)).parameters())

    assert count("uniter", "base") == 109_898_752
    assert count("uniter", "large") == 335_695_872
    assert count("vilt", "base") == 111_595_008


@pytest.mark.parametrize("name", MODELS)
def test_pool_is_in_order_of_depth(name: str) -> None:
    names = _meta(ModelSpec(architecture=name, size="base")).prunable("encoder+pooler")
    layers = [int(part.split(".")[2]) for part in names[:-1]]
    assert layers == sorted(layers)
    assert names[-1] == "pooler.dense.weight"


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_the_fields_of_the_configuration(name: str) -> None:
    configs = import_module(MODELS[name].module).CONFIGS
    assert set(configs) == set(MODELS[name].sizes)
    for config in configs.values():
        assert {field.name for field in fields(config)} == set(MODELS[name].settings)


def test_overrides_change_the_configuration() -> None:
    spec = ModelSpec(architecture="uniter", size="tiny", overrides=(("num_hidden_layers", 1),))
    assert len(_meta(spec).prunable("encoder")) == 6


@pytest.mark.parametrize(
    ("size", "overrides", "told"),
    [
        ("huge", (), "no size 'huge'; sizes: tiny, base, large"),
        ("tiny", (("layers", 1),), "no setting 'layers'; settings: hidden_size"),
        ("tiny", (("num_hidden_layers", "two"),), "'two'; give a positive int"),
        ("tiny", (("num_hidden_layers", True),), "True; give a positive int"),
        ("tiny", (("initializer_range", -0.1),), "-0.1; give a positive float"),
        ("tiny", (("num_attention_heads", 5),), "64 is not a multiple of num_attention_heads 5"),
        ("tiny", (("type_vocab_size", 1),), "type_vocab_size = 1; regions are of type 1"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(
    size: str, overrides: tuple[tuple[str, int | float | str | bool], ...], told: str
) -> None:
    spec = ModelSpec(architecture="uniter", size=size, overrides=overrides)
    with pytest.raises(TrainableError) as caught:
        _meta(spec)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_pool_is_refused() -> None:
    with pytest.raises(TrainableError, match=r"'all'; pools: encoder, encoder\+pooler"):
        _meta(ModelSpec(architecture="uniter", size="tiny")).prunable("all")


def test_registries_import_no_torch() -> None:
    code = "import sys, trainables.models, trainables.tasks, trainables.data.fingerprint\n"
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
