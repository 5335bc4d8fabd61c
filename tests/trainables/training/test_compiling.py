"""`torch.compile` around a small network under a ticket; needs a C++ compiler on the machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.runs import micro_batches
from trainables.distributed.process import prepare_process
from trainables.spec import Recipe
from trainables.tickets.weights import applied, pruned_nonzero
from trainables.training.adversary import plain_objective
from trainables.training.engine import compiling, start_engine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
        reason="no C++ compiler, which torch.compile needs on CPU",
    ),
]
MASKS = {"backbone.0.weight": np.random.default_rng(0).random((24, 12)) < 0.3}


class SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.Tanh())
        self.head = nn.Linear(24, 3)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.head(self.backbone(batch["x"]))
        return out


def trained(*, compiled: bool) -> tuple[list[float], dict[str, Tensor]]:
    prepare_process("cpu", 1)
    torch.manual_seed(0)
    net = SmallNetwork()
    recipe = Recipe(steps=8, batch_size=4, lr=1e-2)
    with (
        compiling(net) if compiled else nullcontext(),
        applied(net, MASKS),
        start_engine(net, recipe, "cpu") as engine,
    ):
        losses = []
        for step in range(4):
            # One compilation must serve all of these sizes.
            x = torch.randn(4 + step, 12, generator=torch.Generator().manual_seed(step))
            losses.append(
                engine.step(
                    micro_batches([{"x": x}]), plain_objective(lambda out, _: (out**2).mean()), 1e-2
                )
            )
        return losses, engine.weights()


def test_a_compiled_run_differs_from_an_eager_one_only_by_rounding() -> None:
    eager, weights = trained(compiled=False)
    losses, compiled = trained(compiled=True)
    again, repeated = trained(compiled=True)
    assert losses == pytest.approx(eager, rel=1e-4)
    assert losses == again
    assert list(compiled) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(compiled[name], repeated[name])
    assert pruned_nonzero(compiled, MASKS) == 0
    assert (
        sum(int(torch.count_nonzero(compiled[name])) for name in MASKS)
        == MASKS["backbone.0.weight"].sum()
    )
