"""UNITER against its equations, restated here in plain tensor algebra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from trainables.errors import CheckpointError
from trainables.models import uniter
from trainables.spec import ModelSpec

TINY = ModelSpec(architecture="uniter", size="tiny")
LAYERS, HEADS = 2, 4


@pytest.fixture
def model() -> uniter.Uniter:
    torch.manual_seed(0)
    built = uniter.build(TINY, dropout=0.0).eval()
    with torch.no_grad():  # biases and LayerNorms start at 0 and 1, which would hide a mix-up
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        built.img_embeddings.mask_embedding.weight[0] = 0  # nothing is added to other regions
    return built


@pytest.fixture
def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    text = torch.arange(9) < torch.tensor([[9], [4], [6]])
    regions = torch.arange(5) < torch.tensor([[2], [5], [3]])
    return {
        "input_ids": torch.randint(1, 128, (3, 9), generator=draw) * text,
        "text_mask": text,
        "region_features": torch.randn(3, 5, 192, generator=draw),
        "region_boxes": torch.rand(3, 5, 7, generator=draw),
        "region_mask": regions,
    }


def _norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)


def _affine(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _embed(w: Mapping[str, Tensor], ids: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
    """One example without padding: (T,), (N, D), (N, 7) -> (T+N, H)."""
    kind = w["embeddings.token_type_embeddings.weight"]
    words = w["embeddings.word_embeddings.weight"][ids]
    places = w["embeddings.position_embeddings.weight"][: len(ids)]
    text = _norm(w, "embeddings.LayerNorm", words + places + kind[0])
    seen = _affine(w, "img_embeddings.img_linear", features)
    where = _affine(w, "img_embeddings.pos_linear", boxes)
    seen = _norm(w, "img_embeddings.img_layer_norm", seen)
    where = _norm(w, "img_embeddings.pos_layer_norm", where)
    return torch.cat([text, _norm(w, "img_embeddings.LayerNorm", seen + where + kind[1])])


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


def _restated(w: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    pooled = []
    for row in range(len(batch["input_ids"])):
        here, there = batch["text_mask"][row], batch["region_mask"][row]
        x = _embed(
            w,
            batch["input_ids"][row][here],
            batch["region_features"][row][there],
            batch["region_boxes"][row][there],
        )
        for layer in range(LAYERS):
            x = _layer(w, f"encoder.layer.{layer}", x)
        pooled.append(torch.tanh(_affine(w, "pooler.dense", x[0])))
    return torch.stack(pooled)


def test_forward_is_the_equations(model: uniter.Uniter, batch: dict[str, Tensor]) -> None:
    # Examples are restated one by one without padding, as the official compaction leaves them.
    with torch.no_grad():
        difference = model(batch) - _restated(model.state_dict(), batch)
    assert difference.abs().max() < 1e-5


def test_gradients_are_those_of_the_equations(
    model: uniter.Uniter, batch: dict[str, Tensor]
) -> None:
    weights = dict(model.named_parameters())
    names = [*model.prunable("encoder+pooler"), "img_embeddings.img_linear.weight"]
    wanted = [weights[name] for name in names]
    ours = torch.autograd.grad(model(batch).sum(), wanted)
    theirs = torch.autograd.grad(_restated(weights, batch).sum(), wanted)
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_mask_embedding_is_added_to_masked_regions(
    model: uniter.Uniter, batch: dict[str, Tensor]
) -> None:
    masked = torch.zeros(3, 5, dtype=torch.bool)
    masked[:, 1] = True
    row = model.img_embeddings.mask_embedding.weight[1]
    shown = batch | {"region_features": batch["region_features"] + masked[..., None] * row}
    with torch.no_grad():
        assert torch.equal(model(batch | {"masked_regions": masked}), model(shown))


def test_evaluation_repeats_bit_by_bit_and_draws_nothing(
    model: uniter.Uniter, batch: dict[str, Tensor]
) -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(batch), model(batch)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_weights_take_float32_inputs(model: uniter.Uniter, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        exact = model(batch)
        rounded = model.bfloat16()(batch)
    assert rounded.dtype == torch.bfloat16
    assert (exact - rounded).abs().max() < 0.1


def test_dropout_acts_in_training_only(batch: dict[str, Tensor]) -> None:
    model = uniter.build(TINY, dropout=0.1)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_same_seed_same_weights() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in uniter.build(TINY, dropout=0.0).parameters()])

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_names_and_shapes_are_the_official_ones() -> None:
    with torch.device("meta"):
        state = uniter.build(ModelSpec(architecture="uniter"), dropout=0.1).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == _official_base()


def _official_base() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published uniter-base.pt after `uniter.`, without its heads."""
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


HEADS_OF_PRETRAINING = {
    "cls.predictions.bias": torch.zeros(128),
    "feat_regress.net.0.weight": torch.zeros(64, 64),
    "region_classifier.net.3.bias": torch.zeros(1601),
    "itm_output.weight": torch.zeros(2, 64),
}


def _old_name(name: str) -> str:
    """As TensorFlow-era files name LayerNorms."""
    if "LayerNorm" in name:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
    return name


@pytest.mark.parametrize("prefix", ["uniter.", "bert."])
@pytest.mark.parametrize("legacy", [True, False])
def test_official_files_load(
    tmp_path: Path, model: uniter.Uniter, prefix: str, legacy: bool
) -> None:
    state = model.state_dict()
    file = tmp_path / "uniter.pt"
    official = {prefix + _old_name(name): value.half() for name, value in state.items()}
    torch.save(official | HEADS_OF_PRETRAINING, file, _use_new_zipfile_serialization=not legacy)
    loaded = uniter.load(file, TINY)
    assert list(loaded) == list(state)
    for name, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].half().float()), name
    uniter.build(TINY, dropout=0.0).load_state_dict(loaded)


def _told(file: Path, spec: ModelSpec = TINY) -> str:
    with pytest.raises(CheckpointError) as caught:
        uniter.load(file, spec)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_wrong_files_are_refused_in_one_line(tmp_path: Path, model: uniter.Uniter) -> None:
    file = tmp_path / "wrong.pt"
    assert "no such weights file" in _told(file)

    file.write_bytes(b"not weights")
    assert "not a weights file" in _told(file)

    torch.save({"weights": uniter.UniterConfig()}, file)  # would have to run code to load
    assert "without running code" in _told(file)

    torch.save({"epoch": 3}, file)
    assert "no named tensors" in _told(file)

    official = {f"uniter.{name}": value for name, value in model.state_dict().items()}
    torch.save(official, file)
    shorter = ModelSpec(architecture="uniter", size="tiny", overrides=(("num_hidden_layers", 1),))
    assert "16 unexpected (encoder.layer.1.attention" in _told(file, shorter)
    assert "of another shape (embeddings.word_embeddings.weight (128, 64), not" in _told(
        file, ModelSpec(architecture="uniter", size="tiny", overrides=(("vocab_size", 99),))
    )

    torch.save(official | {"vqa_output.0.weight": torch.zeros(2, 2)}, file)
    assert "1 unexpected (vqa_output.0.weight)" in _told(file)

    del official["uniter.pooler.dense.bias"]
    torch.save(official, file)
    assert "1 missing (pooler.dense.bias)" in _told(file)


def test_no_from_pretrained_form(tmp_path: Path, model: uniter.Uniter) -> None:
    with pytest.raises(CheckpointError, match="no class to load it with from_pretrained"):
        uniter.save_pretrained(model.state_dict(), TINY, tmp_path)
