"""UNITER-base in bf16 on a GPU: pruned weights stay exactly zero, at little cost per step."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.pruning.magnitude import cut
from trainables.spec import CutSpec, ModelSpec, Recipe
from trainables.tickets.weight_mask import pruned_nonzero, wearing
from trainables.training.engine import Batch, Engine, prepare_process, started
from trainables.training.network import Network
from trainables.training.start import drawn_backbone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MODEL = ModelSpec(architecture="uniter", size="base")
BATCH, TEXT, REGIONS, ANSWERS = 32, 20, 36, 3129


def batch(region_dim: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1000, (BATCH, TEXT), generator=generator),
        "text_mask": torch.ones(BATCH, TEXT, dtype=torch.bool),
        "region_features": torch.randn(BATCH, REGIONS, region_dim, generator=generator),
        "region_boxes": torch.rand(BATCH, REGIONS, 7, generator=generator),
        "labels": torch.randint(ANSWERS, (BATCH,), generator=generator),
    }


def loss(logits: Tensor, examples: Batch) -> Tensor:
    return nn.functional.cross_entropy(logits, examples["labels"])


def seconds_per_step(engine: Engine, examples: Batch, steps: int = 20) -> float:
    for _ in range(5):
        engine.step([examples], loss, 1e-4)
    torch.cuda.synchronize()
    started_at = time.perf_counter()
    for _ in range(steps):
        engine.step([examples], loss, 1e-4)
    torch.cuda.synchronize()
    return (time.perf_counter() - started_at) / steps


@pytest.mark.parametrize("zero", [1, 2])
def test_a_masked_step_is_exact_and_within_a_tenth_of_dense(zero: int) -> None:
    prepare_process("cuda", 4)
    recipe = Recipe(batch_size=BATCH, precision="bf16", zero=zero)  # type: ignore[arg-type]
    times = {}
    for kind in ("dense", "masked"):
        backbone = drawn_backbone(MODEL, 0, recipe.dropout)
        pool = {name: backbone.state_dict()[name] for name in backbone.prunable("encoder+pooler")}
        kept = cut(CutSpec(model=MODEL, sparsity=0.7), pool, None, None)
        masks: dict[str, NDArray[np.bool_]] = {f"backbone.{n}": mask for n, mask in kept.items()}
        net = Network(backbone, nn.Linear(backbone.hidden_size, ANSWERS)).to("cuda")
        with ExitStack() as stack:
            if kind == "masked":
                stack.enter_context(wearing(net, masks))
            engine = stack.enter_context(started(net, recipe, "cuda"))
            times[kind] = seconds_per_step(engine, batch(backbone.region_dim, 0))
            final = engine.weights()
            module = {name: value.cpu() for name, value in net.state_dict().items()}
        if kind == "masked":
            assert pruned_nonzero(final, masks) == 0
            assert pruned_nonzero(module, masks) == 0
        else:
            assert pruned_nonzero(final, masks) > 0
    dense, masked = (1e3 * times[kind] for kind in ("dense", "masked"))
    print(f"ZeRO {zero}: dense {dense:.1f} ms, masked {masked:.1f} ms a step")
    assert masked < 1.1 * dense


def test_two_runs_on_the_device_are_bit_identical() -> None:
    prepare_process("cuda", 4)
    recipe = Recipe(batch_size=BATCH, precision="bf16", zero=1)
    finals = []
    for _ in range(2):
        backbone = drawn_backbone(MODEL, 0, recipe.dropout)
        torch.manual_seed(0)
        net = Network(backbone, nn.Linear(backbone.hidden_size, ANSWERS)).to("cuda")
        with started(net, recipe, "cuda") as engine:
            for step in range(5):
                torch.manual_seed(step)
                engine.step([batch(backbone.region_dim, step)], loss, 1e-4)
            finals.append(engine.weights())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
