"""ViLT compared with transformers' ViltModel, images of several sizes, and published layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViltModel

from tests.support.model_inputs import (
    PATCH,
    TEXT,
    gradients,
    image_inputs,
    largest_difference,
    load_error,
    noisy_backbone,
    text_inputs,
)
from trainables.models.base import Backbone
from trainables.models.vilt import model as vilt
from trainables.spec import ModelSpec

TINY = ModelSpec(architecture="vilt", size="tiny")
EPS = {"embeddings.text_embeddings.LayerNorm": 1e-12}
PRETRAINING_HEADS = {
    "mlm_score.decoder.weight": torch.zeros(128, 64),
    "itm_score.fc.bias": torch.zeros(2),
}
SIZES = {
    "the model's": [(4, 4), (4, 4), (4, 4)],
    "another": [(5, 7), (5, 7), (5, 7)],
    "several": [(4, 6), (6, 4), (4, 4)],
    "narrow": [(1, 7), (7, 1), (3, 2)],
}


@pytest.fixture
def model() -> Backbone:
    return noisy_backbone("vilt").eval()


def _stock(model: Backbone, folder: Path, *, eps: float) -> ViltModel:
    vilt.save_pretrained(model.state_dict(), TINY, folder)
    stock = ViltModel.from_pretrained(folder, dtype=torch.float32)
    for name, module in stock.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = EPS.get(name, eps)
    return stock.eval()


def _run(stock: ViltModel, batch: Mapping[str, Tensor], kind: int = 1) -> tuple[Tensor, Tensor]:
    """Return the pooled output and the text tokens."""
    pixels = batch["patch_mask"].repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    out = stock(
        input_ids=batch["input_ids"],
        attention_mask=batch["text_mask"].long(),
        pixel_values=batch["pixel_values"],
        pixel_mask=pixels.long(),
        image_token_type_idx=kind,
    )
    return out.pooler_output, out.last_hidden_state[:, : TEXT.shape[1]]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_forward_and_gradients_match_transformers(
    tmp_path: Path, model: Backbone, sizes: list[tuple[int, int]]
) -> None:
    stock, batch = _stock(model, tmp_path, eps=1e-6), text_inputs() | image_inputs(sizes)
    ours, theirs = model(batch), _run(stock, batch)
    # Its patches are in random order: the sums are the same except for rounding.
    assert (ours.pooled - theirs[0]).abs().max() < 3e-6
    assert (ours.text - theirs[1])[TEXT].abs().max() < 3e-6
    a, b = gradients(model, model(batch).pooled), gradients(stock, _run(stock, batch)[0])
    assert largest_difference(a, b) < 2e-6


def test_the_small_eps_of_transformers_changes_the_output_slightly(
    tmp_path: Path, model: Backbone
) -> None:
    batch = text_inputs() | image_inputs(SIZES["several"])
    with torch.no_grad():
        theirs = _run(_stock(model, tmp_path, eps=1e-12), batch)[0]
        assert (model(batch).pooled - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_an_image_gives_the_same_output_alone_and_padded(
    model: Backbone, sizes: list[tuple[int, int]]
) -> None:
    batch = text_inputs() | image_inputs(sizes)
    together = model(batch)
    for n, (rows, columns) in enumerate(sizes):
        alone = model(
            {
                "input_ids": batch["input_ids"][n : n + 1, TEXT[n]],
                "text_mask": TEXT[n : n + 1, TEXT[n]],
                "pixel_values": batch["pixel_values"][n : n + 1, :, : rows * 8, : columns * 8],
            }
        )
        assert torch.allclose(alone.pooled[0], together.pooled[n], atol=3e-6)
        patches = together.image[n, : 1 + rows * columns]
        assert torch.allclose(alone.image[0], patches, atol=3e-6)


@torch.no_grad()
def test_there_are_as_many_patches_as_the_largest_image_has(model: Backbone) -> None:
    assert model(text_inputs() | image_inputs(SIZES["several"])).image.shape == (3, 1 + 24, 64)


@torch.no_grad()
def test_image_kinds_choose_the_modality_row(tmp_path: Path) -> None:
    spec = ModelSpec(architecture="vilt", size="tiny", overrides=(("modality_types", 3),))
    torch.manual_seed(0)
    model = vilt.build(spec, dropout=0.0).eval()
    batch = text_inputs() | image_inputs(SIZES["several"])
    kinds = torch.tensor([1, 2, 1])
    vilt.save_pretrained(model.state_dict(), spec, tmp_path)
    stock = ViltModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = model(batch | {"image_kinds": kinds}).pooled
    for n, kind in enumerate(kinds.tolist()):
        assert torch.allclose(ours[n], _run(stock, batch, kind)[0][n], atol=1e-4)
    assert not torch.allclose(ours[1], model(batch).pooled[1], atol=1e-2)


def test_dropout_acts_twice_in_the_ffn() -> None:
    """If the second matrix is the identity, (1 - p)^2 of the entries pass both dropouts."""
    torch.manual_seed(0)
    layer = vilt.build(TINY, dropout=0.5).encoder.layer[0].train()
    with torch.no_grad():
        for part in (layer.attention.output.dense, layer.output.dense):
            part.weight.zero_()
        layer.output.dense.weight.fill_diagonal_(1.0)
        hidden = torch.randn(8, 40, 64)
        out = vilt.pre_ln_layer(layer, hidden, torch.ones(8, 1, 1, 40, dtype=torch.bool))
    share = (out != hidden).float().mean()
    assert abs(share - 0.25) < 0.02


def test_the_saved_folder_has_every_weight(tmp_path: Path, model: Backbone) -> None:
    stock = _stock(model, tmp_path, eps=1e-12).state_dict()
    state = model.state_dict()
    assert stock.keys() == state.keys()
    assert all(torch.equal(stock[name], state[name]) for name in state)
    loaded = vilt.load(tmp_path / "model.safetensors", TINY).backbone
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def _official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state as in the published Lightning files, and fuse query, key and value."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for hub, official in (
            ("embeddings.text_embeddings.", "text_embeddings."),
            ("embeddings.token_type_embeddings.", "token_type_embeddings."),
            ("embeddings.cls_token", "transformer.cls_token"),
            ("embeddings.position_embeddings", "transformer.pos_embed"),
            ("embeddings.patch_embeddings.projection.", "transformer.patch_embed.proj."),
            ("layernorm.", "transformer.norm."),
            ("encoder.layer.", "transformer.blocks."),
        ):
            if name.startswith(hub):
                name = official + name.removeprefix(hub)
                break
        if name.startswith("transformer.blocks."):
            name = (
                name.replace("attention.output.dense", "attn.proj")
                .replace("intermediate.dense", "mlp.fc1")
                .replace("output.dense", "mlp.fc2")
                .replace("layernorm_before", "norm1")
                .replace("layernorm_after", "norm2")
            )
        renamed[name] = value
    for block in range(2):
        prefix = f"transformer.blocks.{block}"
        for tail in ("weight", "bias"):
            parts = [
                renamed.pop(f"{prefix}.attention.attention.{part}.{tail}")
                for part in ("query", "key", "value")
            ]
            renamed[f"{prefix}.attn.qkv.{tail}"] = torch.cat(parts)
    return renamed


def test_official_lightning_files_load(tmp_path: Path, model: Backbone) -> None:
    state = model.state_dict()
    official = _official(state) | {"text_embeddings.position_ids": torch.arange(32)[None]}
    assert official["transformer.blocks.1.attn.qkv.weight"].shape == (192, 64)
    file = tmp_path / "vilt.ckpt"
    torch.save({"epoch": 1, "state_dict": official | PRETRAINING_HEADS}, file)
    loaded = vilt.load(file, TINY)
    assert list(loaded.backbone) == list(state)
    assert all(torch.equal(loaded.backbone[name], state[name]) for name in state)
    assert loaded.heads.keys() == PRETRAINING_HEADS.keys()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_hub_files_load(tmp_path: Path, model: Backbone, name: str) -> None:
    state = model.state_dict()
    file = tmp_path / name
    hub = {f"vilt.{name}": value for name, value in state.items()} | PRETRAINING_HEADS
    if file.suffix == ".bin":
        torch.save(hub, file)
    else:
        save_file(hub, file)
    loaded = vilt.load(file, TINY)
    assert all(torch.equal(loaded.backbone[name], state[name]) for name in state)
    assert loaded.heads.keys() == PRETRAINING_HEADS.keys()


def test_fine_tuned_and_damaged_files_are_errors(tmp_path: Path, model: Backbone) -> None:
    file = tmp_path / "model.safetensors"
    hub = {f"vilt.{name}": value for name, value in model.state_dict().items()}
    save_file(hub | {"classifier.0.weight": torch.zeros(2, 2)}, file)
    assert "1 unexpected (classifier.0.weight)" in load_error("vilt", file)
    # NLVR2's third modality type
    hub["vilt.embeddings.token_type_embeddings.weight"] = torch.zeros(3, 64)
    save_file(hub, file)
    assert "token_type_embeddings.weight (3, 64), not (2, 64)" in load_error("vilt", file)
    file.write_bytes(file.read_bytes()[:1000])
    assert "not a weights file" in load_error("vilt", file)
