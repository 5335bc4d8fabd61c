"""UNITER compared with its equations, implemented here in plain tensor algebra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from tests.support.model_inputs import (
    REGIONS,
    TEXT,
    gradients,
    largest_difference,
    load_error,
    noisy_backbone,
    region_inputs,
    text_inputs,
)
from trainables.errors import CheckpointError
from trainables.models.base import Backbone
from trainables.models.uniter import model as uniter
from trainables.spec import ModelSpec

TINY = ModelSpec(architecture="uniter", size="tiny")
LAYERS, HEADS = 2, 4


@pytest.fixture
def model() -> Backbone:
    return noisy_backbone("uniter").eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return text_inputs() | region_inputs()


def _norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)


def _affine(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _embed(w: Mapping[str, Tensor], example: Mapping[str, Tensor]) -> Tensor:
    """Embed one example without padding -> (T+N, H)."""
    ids, types = example["input_ids"], w["embeddings.token_type_embeddings.weight"]
    words = w["embeddings.word_embeddings.weight"][ids]
    positions = w["embeddings.position_embeddings.weight"][: len(ids)]
    text = _norm(w, "embeddings.LayerNorm", words + positions + types[example["text_kinds"]])
    features = example["region_features"]
    mask = w["img_embeddings.mask_embedding.weight"][1]
    features = features + example["masked_regions"][:, None] * mask
    appearance = _affine(w, "img_embeddings.img_linear", features)
    position = _affine(w, "img_embeddings.pos_linear", example["region_boxes"])
    appearance = _norm(w, "img_embeddings.img_layer_norm", appearance)
    position = _norm(w, "img_embeddings.pos_layer_norm", position)
    image = appearance + position + types[example["image_kinds"]]
    return torch.cat([text, _norm(w, "img_embeddings.LayerNorm", image)])


def _layer(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    parts = []
    for part in ("query", "key", "value"):
        projected = _affine(w, f"{name}.attention.self.{part}", x)
        parts.append(projected.view(len(x), HEADS, -1).transpose(0, 1))
    query, key, value = parts
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    mixed = (scores.softmax(dim=-1) @ value).transpose(0, 1).reshape(len(x), -1)
    out = _affine(w, f"{name}.attention.output.dense", mixed)
    x = _norm(w, f"{name}.attention.output.LayerNorm", x + out)
    wide = gelu(_affine(w, f"{name}.intermediate.dense", x))
    return _norm(w, f"{name}.output.LayerNorm", x + _affine(w, f"{name}.output.dense", wide))


def _reference(w: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Return the pooled output and all tokens, one example after another: (rows, H)."""
    rows = []
    text = ("input_ids", "text_kinds")
    image = ("region_features", "region_boxes", "masked_regions")
    for n in range(len(batch["input_ids"])):
        example = {name: batch[name][n][TEXT[n]] for name in text}
        example |= {name: batch[name][n][REGIONS[n]] for name in image}
        x = _embed(w, example | {"image_kinds": batch["image_kinds"][n]})
        for layer in range(LAYERS):
            x = _layer(w, f"encoder.layer.{layer}", x)
        rows += [torch.tanh(_affine(w, "pooler.dense", x[:1])), x]
    return torch.cat(rows)


def _ours(model: Backbone, batch: Mapping[str, Tensor]) -> Tensor:
    pooled, text, image = model(batch)
    rows = []
    for n in range(len(pooled)):
        rows += [pooled[n : n + 1], text[n][TEXT[n]], image[n][REGIONS[n]]]
    return torch.cat(rows)


@pytest.fixture
def full(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with all optional inputs."""
    return batch | {
        "text_kinds": torch.arange(9).expand(3, -1) % 2,
        "image_kinds": torch.tensor([1, 0, 1]),
        "masked_regions": torch.arange(5).expand(3, -1) % 2 == 1,
    }


def test_forward_and_gradients_match_the_equations(
    model: Backbone, full: dict[str, Tensor]
) -> None:
    # The reference computes examples one by one without padding, like the official compaction.
    weights = dict(model.named_parameters())
    ours, theirs = _ours(model, full), _reference(weights, full)
    assert (ours - theirs).abs().max() < 3e-6
    a, b = gradients(model, _ours(model, full)), gradients(model, _reference(weights, full))
    assert largest_difference(a, b) < 2e-6


def test_optional_inputs_have_their_defaults(model: Backbone, batch: dict[str, Tensor]) -> None:
    defaults = {
        "text_kinds": torch.zeros(3, 9, dtype=torch.int64),
        "image_kinds": torch.ones(3, dtype=torch.int64),
        "masked_regions": torch.zeros(3, 5, dtype=torch.bool),
    }
    all_regions = batch | {"region_mask": torch.ones_like(REGIONS)}
    with torch.no_grad():
        assert torch.equal(model(batch).pooled, model(batch | defaults).pooled)
        unmasked = {name: value for name, value in batch.items() if name != "region_mask"}
        assert torch.equal(model(unmasked).pooled, model(all_regions).pooled)


def test_names_and_shapes_match_the_official_file() -> None:
    with torch.device("meta"):
        state = uniter.build(ModelSpec(architecture="uniter"), dropout=0.1).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == _official_base()


def _official_base() -> dict[str, tuple[int, ...]]:
    """Names without `uniter.` and shapes of the published uniter-base.pt, without its heads."""
    h = 768
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (28996, h),
        "embeddings.position_embeddings.weight": (512, h),
        "embeddings.token_type_embeddings.weight": (2, h),
        "img_embeddings.mask_embedding.weight": (2, 2048),
    }

    def affine(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    norms = ["embeddings.LayerNorm"]
    norms += [f"img_embeddings.{n}" for n in ("img_layer_norm", "pos_layer_norm", "LayerNorm")]
    affine("img_embeddings.img_linear", h, 2048)
    affine("img_embeddings.pos_linear", h, 7)
    for n in range(12):
        layer = f"encoder.layer.{n}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            affine(f"{layer}.attention.{part}", h, h)
        affine(f"{layer}.intermediate.dense", 3072, h)
        affine(f"{layer}.output.dense", h, 3072)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    affine("pooler.dense", h, h)
    for name in norms:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (h,)
    return shapes


PRETRAINING_HEADS = {
    "cls.predictions.bias": torch.zeros(128),
    "feat_regress.net.0.weight": torch.zeros(64, 64),
    "region_classifier.net.3.bias": torch.zeros(1601),
    "itm_output.weight": torch.zeros(2, 64),
}


def _old_name(name: str) -> str:
    """Rename LayerNorms as in TensorFlow-era files."""
    if "LayerNorm" in name:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
    return name


@pytest.mark.parametrize("prefix", ["uniter.", "bert.", "module.uniter."])
@pytest.mark.parametrize("legacy", [True, False])
def test_official_files_load(tmp_path: Path, model: Backbone, prefix: str, legacy: bool) -> None:
    state = model.state_dict()
    file = tmp_path / "uniter.pt"
    official = {prefix + _old_name(name): value.half() for name, value in state.items()}
    torch.save(official | PRETRAINING_HEADS, file, _use_new_zipfile_serialization=not legacy)
    loaded = uniter.load(file, TINY)
    assert list(loaded.backbone) == list(state)
    for name, value in loaded.backbone.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].half().float()), name
    uniter.build(TINY, dropout=0.0).load_state_dict(loaded.backbone)


def test_heads_are_separated_and_have_current_names(tmp_path: Path, model: Backbone) -> None:
    file = tmp_path / "uniter.pt"
    official = {f"uniter.{name}": value for name, value in model.state_dict().items()}
    norm = {"cls.predictions.transform.LayerNorm.gamma": torch.full((64,), 2.0).half()}
    torch.save({"model_state": official | PRETRAINING_HEADS | norm}, file)
    heads = uniter.load(file, TINY).heads
    named = "cls.predictions.transform.LayerNorm.weight"
    assert heads.keys() == {*PRETRAINING_HEADS, named}
    assert torch.equal(heads[named], torch.full((64,), 2.0))


def test_missing_weights_of_bert_files_are_filled(tmp_path: Path, model: Backbone) -> None:
    file = tmp_path / "pytorch_model.bin"
    state = model.state_dict()
    bert = {
        f"bert.{_old_name(name)}": value
        for name, value in state.items()
        if not name.startswith("img_embeddings.")
    }
    heads = {"cls.predictions.bias": torch.zeros(128), "cls.seq_relationship.bias": torch.zeros(2)}
    torch.save(bert | heads, file)
    message = load_error("uniter", file)
    assert "11 missing (img_embeddings.img_linear.weight" in message
    assert "write fill: true next to its weights" in message

    fill = {name: torch.full_like(value, 7.0) for name, value in state.items()}
    loaded = uniter.load(file, TINY, fill=fill)
    for name, value in loaded.backbone.items():
        source = fill if name.startswith("img_embeddings.") else state
        assert torch.equal(value, source[name]), name
    assert loaded.heads.keys() == heads.keys()

    torch.save(heads, file)  # no weights of the model: it must not be filled completely
    with pytest.raises(CheckpointError, match=r"50 missing \(embeddings"):
        uniter.load(file, TINY, fill=fill)


def test_wrong_files_are_errors(tmp_path: Path, model: Backbone) -> None:
    file = tmp_path / "wrong.pt"
    assert "no such weights file" in load_error("uniter", file)

    file.write_bytes(b"not weights")
    assert "not a weights file" in load_error("uniter", file)

    torch.save({"weights": uniter.UniterConfig()}, file)  # loading it would run code
    assert "without running code" in load_error("uniter", file)

    torch.save({"epoch": 3}, file)
    assert "no named tensors" in load_error("uniter", file)

    official = {f"uniter.{name}": value for name, value in model.state_dict().items()}
    torch.save(official, file)
    shorter = load_error("uniter", file, ("num_hidden_layers", 1))
    assert "16 unexpected (encoder.layer.1.attention" in shorter
    smaller = load_error("uniter", file, ("vocab_size", 99))
    assert "of another shape (embeddings.word_embeddings.weight (128, 64), not" in smaller

    torch.save(official | {"vqa_output.0.weight": torch.zeros(2, 2)}, file)
    assert "1 unexpected (vqa_output.0.weight)" in load_error("uniter", file)

    del official["uniter.pooler.dense.bias"]
    torch.save(official, file)
    assert "1 missing (pooler.dense.bias)" in load_error("uniter", file)


def test_saving_for_from_pretrained_is_an_error(tmp_path: Path, model: Backbone) -> None:
    with pytest.raises(CheckpointError, match="no class to load it with from_pretrained"):
        uniter.save_pretrained(model.state_dict(), TINY, tmp_path)
