"""LXMERT compared with transformers' eager LxmertModel, its files, and its untrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LxmertConfig, LxmertModel

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
from tests.support.runs import micro_batches
from trainables.distributed.process import prepare_process
from trainables.models.base import Backbone
from trainables.models.lxmert import model as lxmert
from trainables.spec import ModelSpec, Recipe
from trainables.tasks.heads import classifier
from trainables.training.adversary import plain_objective
from trainables.training.engine import start_engine
from trainables.training.network import Network

TINY = ModelSpec(architecture="lxmert", size="tiny")
PRETRAINING_HEADS = {
    "cls.predictions.bias": torch.zeros(128),
    "cls.seq_relationship.weight": torch.zeros(2, 64),
    "obj_predict_head.decoder_dict.attr.bias": torch.zeros(400),
    "answer_head.logit_fc.3.weight": torch.zeros(9500, 128),
}


@pytest.fixture
def model() -> Backbone:
    return noisy_backbone("lxmert").eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return text_inputs() | region_inputs()


def _stock(model: Backbone, folder: Path) -> LxmertModel:
    lxmert.save_pretrained(model.state_dict(), TINY, folder)
    return LxmertModel.from_pretrained(folder, dtype=torch.float32).eval()


def _run(stock: LxmertModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    out = stock(
        input_ids=batch["input_ids"],
        token_type_ids=batch["text_kinds"],
        attention_mask=batch["text_mask"].long(),
        visual_feats=batch["region_features"],
        visual_pos=batch["region_boxes"][..., :4],
        visual_attention_mask=batch["region_mask"].long(),
    )
    return out.pooled_output, out.language_output, out.vision_output


def test_forward_and_gradients_match_transformers(
    tmp_path: Path, model: Backbone, batch: dict[str, Tensor]
) -> None:
    stock = _stock(model, tmp_path)
    batch["text_kinds"] = torch.arange(9).expand(3, -1) % 2
    ours, theirs = model(batch), _run(stock, batch)
    for a, b, mask in zip(ours, theirs, (slice(None), TEXT, REGIONS), strict=True):
        assert (a - b)[mask].abs().max() < 3e-6
    for number in (0, 2):
        a, b = gradients(model, model(batch)[number]), gradients(stock, _run(stock, batch)[number])
        assert largest_difference(a, b) < 2e-6


def test_without_a_mask_every_region_is_used(model: Backbone, batch: dict[str, Tensor]) -> None:
    all_regions = batch | {"region_mask": torch.ones_like(batch["region_mask"])}
    del batch["region_mask"]
    with torch.no_grad():
        assert torch.allclose(model(batch).pooled, model(all_regions).pooled, atol=1e-6)


def test_positions_are_the_corners_of_the_box(model: Backbone, batch: dict[str, Tensor]) -> None:
    def moved(column: int) -> dict[str, Tensor]:
        boxes = batch["region_boxes"].clone()
        boxes[..., column] += 0.5
        return batch | {"region_boxes": boxes}

    with torch.no_grad():
        original = model(batch).pooled
        changes = [not torch.equal(original, model(moved(column)).pooled) for column in range(7)]
    assert changes == [True] * 4 + [False] * 3


def test_names_and_shapes_match_the_hub() -> None:
    with torch.device("meta"):
        ours = lxmert.build(ModelSpec(architecture="lxmert"), dropout=0.1).state_dict()
        theirs = LxmertModel(LxmertConfig()).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }


@pytest.mark.parametrize("prefix", ["bert.", "module.bert.", "lxmert."])
@pytest.mark.parametrize("name", ["model_LXRT.pth", "model.safetensors", "pytorch_model.bin"])
def test_published_layouts_load(tmp_path: Path, model: Backbone, prefix: str, name: str) -> None:
    state, file = model.state_dict(), tmp_path / name
    outer = prefix.removesuffix("bert.") if prefix != "lxmert." else ""
    published = {f"{prefix}{weight}": value for weight, value in state.items()}
    published |= {f"{outer}{weight}": value for weight, value in PRETRAINING_HEADS.items()}
    if file.suffix == ".safetensors":
        save_file(published, file)
    else:
        torch.save(published, file)
    loaded = lxmert.load(file, TINY)
    assert list(loaded.backbone) == list(state)
    assert all(torch.equal(loaded.backbone[weight], state[weight]) for weight in state)
    assert loaded.heads.keys() == PRETRAINING_HEADS.keys()


def test_the_saved_folder_loads_in_transformers(tmp_path: Path, model: Backbone) -> None:
    state, stock = model.state_dict(), _stock(model, tmp_path).state_dict()
    assert stock.keys() == state.keys()
    assert all(torch.equal(stock[name], state[name]) for name in state)
    loaded = lxmert.load(tmp_path / "model.safetensors", TINY).backbone
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_fine_tuned_and_mismatched_files_are_errors(tmp_path: Path, model: Backbone) -> None:
    file = tmp_path / "BEST.pth"
    state = {f"bert.{name}": value for name, value in model.state_dict().items()}
    torch.save(state | {"logit_fc.0.weight": torch.zeros(2, 2)}, file)
    assert "1 unexpected (logit_fc.0.weight)" in load_error("lxmert", file)
    torch.save(state, file)
    assert "42 unexpected (encoder.x_layers.1." in load_error("lxmert", file, ("x_layers", 1))


def _untrained(model: Backbone) -> list[str]:
    reached = set(model.prunable("encoder-reached"))
    return [name for name in model.prunable("encoder") if name not in reached]


def test_untrained_matrices_are_the_last_region_side(model: Backbone) -> None:
    last = "encoder.x_layers.1.visn_"
    parts = ["self_att.self.query", "self_att.self.key", "self_att.self.value"]
    parts += ["self_att.output.dense", "inter.dense", "output.dense"]
    assert set(_untrained(model)) == {f"{last}{part}.weight" for part in parts}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("zero", "precision"), [(0, "fp32"), (1, "fp32"), (2, "bf16")])
def test_training_only_decays_untrained_matrices(
    batch: dict[str, Tensor], zero: int, precision: str, decay: float
) -> None:
    recipe = replace(
        Recipe(batch_size=3, lr=1e-2, weight_decay=decay, dropout=0.0),
        zero=zero,
        precision=precision,
    )
    prepare_process("cpu", 1)
    model = noisy_backbone("lxmert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch["labels"] = torch.tensor([0, 1, 2])
    objective = plain_objective(lambda logits, batch: cross_entropy(logits, batch["labels"]))
    with start_engine(Network(model, classifier(64, 128, 3)), recipe, "cpu") as engine:
        for _ in range(3):
            engine.step(micro_batches([batch]), objective, recipe.lr)
        after = engine.weights()
    shrunk = 1.0 if zero == 0 else (1 - recipe.lr * decay) ** 3
    for name in _untrained(model):
        assert torch.allclose(after[f"backbone.{name}"], before[name] * shrunk, rtol=1e-6)
    for name in model.prunable("encoder-reached"):
        assert not torch.allclose(after[f"backbone.{name}"], before[name], rtol=1e-2)
