"""Properties that all backbones share."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from tests.support.model_inputs import batch_for, gradients, noisy_backbone
from trainables.models import MODELS
from trainables.models.base import Encoded
from trainables.spec import ModelSpec

each = pytest.mark.parametrize("name", MODELS)
IMAGE = {"regions": "region_features", "pixels": "pixel_values"}


def _same(a: Encoded, b: Encoded) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _other_padding(name: str) -> dict[str, Tensor]:
    """Return the batch with other values in the padding."""
    batch = batch_for(name)
    other = batch | {"input_ids": batch["input_ids"].masked_fill(~batch["text_mask"], 7)}
    if "region_mask" in batch:
        absent = ~batch["region_mask"][..., None]
        for part in ("region_features", "region_boxes"):
            other[part] = batch[part].masked_fill(absent, 9.0)
        return other
    patches = batch["patch_mask"].repeat_interleave(8, 1).repeat_interleave(8, 2)
    other["pixel_values"] = batch["pixel_values"].masked_fill(~patches[:, None], 9.0)
    return other


@each
@torch.no_grad()
def test_evaluation_is_deterministic_and_draws_no_random_numbers(name: str) -> None:
    model, batch = noisy_backbone(name, dropout=0.1).eval(), batch_for(name)
    before = torch.get_rng_state()
    assert _same(model(batch), model(batch))
    assert torch.equal(before, torch.get_rng_state())


@each
@torch.no_grad()
def test_padding_is_ignored(name: str) -> None:
    model = noisy_backbone(name).eval()
    assert torch.equal(model(batch_for(name)).pooled, model(_other_padding(name)).pooled)


@each
@torch.no_grad()
def test_bf16_weights_take_float32_inputs(name: str) -> None:
    model, batch = noisy_backbone(name).eval(), batch_for(name)
    batch["text_delta"] = torch.full((3, 9, 64), 0.01)
    batch["image_delta"] = torch.full_like(batch[IMAGE[model.modality]], 0.01)
    exact = model(batch).pooled
    rounded = model.bfloat16()(batch)
    assert {part.dtype for part in rounded} == {torch.bfloat16}
    assert (exact - rounded.pooled).abs().max() < 0.15


@each
@torch.no_grad()
def test_dropout_acts_in_training_only(name: str) -> None:
    model, batch = noisy_backbone(name, dropout=0.1), batch_for(name)
    assert not torch.equal(model(batch).pooled, model(batch).pooled)
    model.eval()
    assert torch.equal(model(batch).pooled, model(batch).pooled)


@each
@torch.no_grad()
def test_attention_has_dropout_where_the_official_code_has_it(name: str) -> None:
    model, batch = noisy_backbone(name, dropout=0.1).train(), batch_for(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert torch.equal(model(batch).pooled, model(batch).pooled) == (name == "vilt")


@each
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    def init(seed: int) -> Tensor:
        torch.manual_seed(seed)
        spec = ModelSpec(architecture=name, size="tiny")
        built = import_module(MODELS[name].module).build(spec, dropout=0.0)
        return torch.cat([p.flatten() for p in built.parameters()])

    assert torch.equal(init(3), init(3))
    assert not torch.equal(init(3), init(4))


@each
@torch.no_grad()
def test_text_kinds_are_rows_of_the_type_table(name: str) -> None:
    model, batch = noisy_backbone(name).eval(), batch_for(name)
    zeros = torch.zeros(3, 9, dtype=torch.int64)
    assert _same(model(batch), model(batch | {"text_kinds": zeros}))
    assert not torch.equal(model(batch).pooled, model(batch | {"text_kinds": zeros + 1}).pooled)


@each
@torch.no_grad()
def test_text_delta_is_added_to_the_word_embeddings(name: str) -> None:
    model, batch = noisy_backbone(name).eval(), batch_for(name)
    delta = torch.randn(64, generator=torch.Generator().manual_seed(5))
    shifted = model(batch | {"text_delta": delta.expand(3, 9, -1)})
    for label, table in model.named_parameters():
        if label.endswith("word_embeddings.weight"):
            table.add_(delta)
    assert torch.allclose(shifted.pooled, model(batch).pooled, atol=1e-6)


@each
@torch.no_grad()
def test_image_delta_is_added_to_the_image_input(name: str) -> None:
    model, batch = noisy_backbone(name).eval(), batch_for(name)
    key = IMAGE[model.modality]
    delta = torch.randn(batch[key].shape, generator=torch.Generator().manual_seed(5))
    shifted = model(batch | {"image_delta": delta})
    assert _same(shifted, model(batch | {key: batch[key] + delta}))
    assert not torch.equal(shifted.pooled, model(batch).pooled)


@each
def test_deltas_get_gradients_outside_the_padding_only(name: str) -> None:
    model, batch = noisy_backbone(name).eval(), batch_for(name)
    text = torch.zeros(3, 9, 64, requires_grad=True)
    image = torch.zeros_like(batch[IMAGE[model.modality]]).requires_grad_()
    out = model(batch | {"text_delta": text, "image_delta": image}).pooled
    by_text, by_image = torch.autograd.grad(out.square().sum(), (text, image))
    assert torch.equal(by_text.abs().sum(-1) > 0, batch["text_mask"])
    if "region_mask" in batch:
        assert torch.equal(by_image.abs().sum(-1) > 0, batch["region_mask"])
    else:
        patches = by_image.abs().sum(1).unfold(1, 8, 8).unfold(2, 8, 8).sum((-1, -2)) > 0
        assert torch.equal(patches, batch["patch_mask"])


@each
def test_the_pooled_output_gives_gradients_to_every_matrix_of_the_layers(name: str) -> None:
    """The exception is LXMERT's last region side, which `encoder-reached` leaves out."""
    model = noisy_backbone(name)
    grads = gradients(model, model(batch_for(name)).pooled)
    reached = {weight for weight, gradient in grads.items() if gradient is not None}
    reached = {weight for weight in reached if grads[weight].abs().max() > 0}  # type: ignore[union-attr]
    pool = (
        "encoder-reached" if "encoder-reached" in MODELS[name].sizes["tiny"].pools() else "encoder"
    )
    assert set(model.prunable("encoder")) & reached == set(model.prunable(pool))


@each
def test_the_token_outputs_give_gradients_to_all_other_weights(name: str) -> None:
    model = noisy_backbone(name)
    encoded = model(batch_for(name))
    grads = gradients(model, torch.cat([encoded.text.flatten(), encoded.image.flatten()]))
    unused = {"pooler.dense.weight", "pooler.dense.bias", "img_embeddings.mask_embedding.weight"}
    assert {weight for weight, gradient in grads.items() if gradient is None} <= unused
