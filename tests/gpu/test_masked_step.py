"""UNITER-base, LXMERT and ViLT-base in bf16 on a GPU under a 70 % ticket: pruned weights stay
exactly zero. `make test-gpu` prints samples per second and memory, masked and dense."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.runs import micro_batches
from trainables.distributed.process import prepare_process, release_memory
from trainables.models.base import Backbone
from trainables.pruning.magnitude import prune
from trainables.spec import ModelSpec, PruneSpec, Recipe
from trainables.tasks.base import Batch
from trainables.tasks.heads import PooledHead
from trainables.tickets.weights import applied, pruned_nonzero
from trainables.training.adversary import plain_objective
from trainables.training.engine import Engine, start_engine
from trainables.training.network import Network
from trainables.training.start import init_backbone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
BATCH, TEXT, REGIONS, ANSWERS = 64, 20, 36, 3129
Masks = dict[str, NDArray[np.bool_]]


def batch(backbone: Backbone, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    examples = {
        "input_ids": torch.randint(1000, (BATCH, TEXT), generator=generator),
        "text_mask": torch.ones(BATCH, TEXT, dtype=torch.bool),
        "labels": torch.randint(ANSWERS, (BATCH,), generator=generator),
    }
    if backbone.modality == "pixels":
        side = backbone.image_size
        return examples | {"pixel_values": torch.randn(BATCH, 3, side, side, generator=generator)}
    return examples | {
        "region_features": torch.randn(BATCH, REGIONS, backbone.region_dim, generator=generator),
        "region_boxes": torch.rand(BATCH, REGIONS, 7, generator=generator),
    }


def loss(logits: Tensor, examples: Batch) -> Tensor:
    return nn.functional.cross_entropy(logits, examples["labels"])


def network(model: ModelSpec, recipe: Recipe) -> tuple[Network, Masks]:
    """Return a random network on the device, and its 70 % ticket."""
    backbone = init_backbone(model, 0, recipe.dropout)
    pool = {name: backbone.state_dict()[name] for name in backbone.prunable("encoder")}
    masks = prune(PruneSpec(model=model, sparsity=0.7, pool="encoder"), pool, None, None)
    torch.manual_seed(0)
    head = PooledHead(nn.Linear(backbone.hidden_size, ANSWERS))
    return Network(backbone, head).to("cuda"), {f"backbone.{n}": mask for n, mask in masks.items()}


def samples_per_second(engine: Engine, examples: Batch, steps: int = 20) -> float:
    for _ in range(5):
        engine.step(micro_batches([examples]), plain_objective(loss), 1e-4)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        engine.step(micro_batches([examples]), plain_objective(loss), 1e-4)
    torch.cuda.synchronize()
    return steps * BATCH / (time.perf_counter() - begin)


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("architecture", ["uniter", "lxmert", "vilt"])
def test_pruned_weights_stay_exactly_zero(architecture: str, zero: int) -> None:
    prepare_process("cuda", 4)
    model = ModelSpec(architecture=architecture, size="base")
    recipe = Recipe(batch_size=BATCH, precision="bf16", zero=zero)  # type: ignore[arg-type]
    columns = []
    for kind in ("dense", "masked"):
        net, masks = network(model, recipe)
        torch.cuda.reset_peak_memory_stats()
        with ExitStack() as stack:
            if kind == "masked":
                stack.enter_context(applied(net, masks))
            engine = stack.enter_context(start_engine(net, recipe, "cuda"))
            rate = samples_per_second(engine, batch(net.backbone, 0))  # type: ignore[arg-type]
            final = engine.weights()
            module = {name: value.cpu() for name, value in net.state_dict().items()}
        nonzero = pruned_nonzero(final, masks) + pruned_nonzero(module, masks)
        assert (nonzero == 0) == (kind == "masked")
        columns.append(f"{kind} {rate:.0f}/s {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        del net, engine, final, module
        release_memory("cuda")
    name = torch.cuda.get_device_name()
    print(f"| {name} | {architecture}-base | bf16, ZeRO {zero} | {' | '.join(columns)} |")


@pytest.mark.parametrize("zero", [0, 1])
def test_two_runs_on_the_device_are_bit_identical(zero: int) -> None:
    prepare_process("cuda", 4)
    recipe = Recipe(batch_size=BATCH, precision="bf16", zero=zero)  # type: ignore[arg-type]
    finals = []
    for _ in range(2):
        net, _ = network(ModelSpec(architecture="uniter", size="base"), recipe)
        with start_engine(net, recipe, "cuda") as engine:
            for step in range(5):
                torch.manual_seed(step)
                engine.step(micro_batches([batch(net.backbone, step)]), plain_objective(loss), 1e-4)  # type: ignore[arg-type]
            finals.append(engine.weights())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
