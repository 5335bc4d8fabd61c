"""ViLT against transformers' own ViltModel, and its two published file layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViltModel

from trainables.errors import CheckpointError
from trainables.models import vilt
from trainables.spec import ModelSpec

TINY = ModelSpec(architecture="vilt", size="tiny")
EPS = {"embeddings.text_embeddings.LayerNorm": 1e-12}


@pytest.fixture
def model() -> vilt.Vilt:
    torch.manual_seed(0)
    return vilt.build(TINY, dropout=0.0).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    text = torch.arange(9) < torch.tensor([[9], [4], [6]])
    return {
        "input_ids": torch.randint(1, 128, (3, 9), generator=draw) * text,
        "text_mask": text,
        "pixel_values": torch.randn(3, 3, 32, 32, generator=draw),
    }


def _stock(folder: Path, *, eps: float) -> ViltModel:
    stock = ViltModel.from_pretrained(folder, dtype=torch.float32)
    for name, module in stock.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = EPS.get(name, eps)
    return stock.eval()


def _run(stock: ViltModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        out: Tensor = stock(
            input_ids=batch["input_ids"],
            attention_mask=batch["text_mask"].long(),
            pixel_values=batch["pixel_values"],
        ).pooler_output
    return out


def test_forward_is_that_of_transformers(
    tmp_path: Path, model: vilt.Vilt, batch: dict[str, Tensor]
) -> None:
    vilt.save_pretrained(model.state_dict(), TINY, tmp_path)
    with torch.no_grad():
        ours = model(batch)
    # Its patches come in random order: the same sums, differently rounded.
    assert (ours - _run(_stock(tmp_path, eps=1e-6), batch)).abs().max() < 1e-5
    assert (ours - _run(_stock(tmp_path, eps=1e-12), batch)).abs().max() < 1e-3


def test_saved_folder_holds_every_weight(tmp_path: Path, model: vilt.Vilt) -> None:
    vilt.save_pretrained(model.state_dict(), TINY, tmp_path)
    stock = ViltModel.from_pretrained(tmp_path).state_dict()
    state = model.state_dict()
    assert stock.keys() == state.keys()
    assert all(torch.equal(stock[name], state[name]) for name in state)
    loaded = vilt.load(tmp_path / "model.safetensors", TINY)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_evaluation_repeats_bit_by_bit_and_draws_nothing(
    model: vilt.Vilt, batch: dict[str, Tensor]
) -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(batch), model(batch)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_weights_take_float32_inputs(model: vilt.Vilt, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        exact = model(batch)
        rounded = model.bfloat16()(batch)
    assert rounded.dtype == torch.bfloat16
    assert (exact - rounded).abs().max() < 0.1


def test_padding_is_not_seen(model: vilt.Vilt, batch: dict[str, Tensor]) -> None:
    other = batch | {"input_ids": batch["input_ids"].masked_fill(~batch["text_mask"], 7)}
    with torch.no_grad():
        assert torch.equal(model(batch), model(other))


def _official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names of the published Lightning files, query-key-value fused."""
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
        at = f"transformer.blocks.{block}"
        for tail in ("weight", "bias"):
            parts = [
                renamed.pop(f"{at}.attention.attention.{part}.{tail}")
                for part in ("query", "key", "value")
            ]
            renamed[f"{at}.attn.qkv.{tail}"] = torch.cat(parts)
    return renamed


def test_official_lightning_files_load(tmp_path: Path, model: vilt.Vilt) -> None:
    state = model.state_dict()
    official = _official(state)
    assert official["transformer.blocks.1.attn.qkv.weight"].shape == (192, 64)
    extra = {
        "text_embeddings.position_ids": torch.arange(32)[None],
        "mlm_score.decoder.weight": torch.zeros(128, 64),
        "itm_score.fc.bias": torch.zeros(2),
    }
    file = tmp_path / "vilt.ckpt"
    torch.save({"epoch": 1, "state_dict": official | extra, "lr_schedulers": []}, file)
    loaded = vilt.load(file, TINY)
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_hub_files_load(tmp_path: Path, model: vilt.Vilt, name: str) -> None:
    state = model.state_dict()
    file = tmp_path / name
    hub = {f"vilt.{name}": value for name, value in state.items()}
    hub["mlm_score.bias"] = torch.zeros(128)
    if file.suffix == ".bin":
        torch.save(hub, file)
    else:
        save_file(hub, file)
    loaded = vilt.load(file, TINY)
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_fine_tuned_and_damaged_files_are_refused(tmp_path: Path, model: vilt.Vilt) -> None:
    file = tmp_path / "model.safetensors"
    hub = {f"vilt.{name}": value for name, value in model.state_dict().items()}
    save_file(hub | {"classifier.0.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(classifier.0.weight\)"):
        vilt.load(file, TINY)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a weights file") as caught:
        vilt.load(file, TINY)
    assert "\n" not in str(caught.value)
