from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.distributed.process import prepare_process
from trainables.models.batch_norm import Float32BatchNorm2d, use_float32_batch_norm
from trainables.spec import Recipe
from trainables.tickets.weights import applied, pruned_nonzero
from trainables.training.adversary import plain_objective
from trainables.training.engine import MicroBatch, start_engine


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **options), nn.Flatten(), nn.BatchNorm1d(144)
    return nn.Sequential(*layers, nn.Linear(144, 2))


def images(seed: int) -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_in_float32_it_is_torchs_bit_for_bit(options: dict[str, Any]) -> None:
    expected, actual = network(**options), network(**options)
    use_float32_batch_norm(actual)
    assert isinstance(actual[1], Float32BatchNorm2d)
    for seed in range(3):
        assert torch.equal(actual(images(seed)), expected(images(seed)))
    assert torch.equal(actual.eval()(images(3)), expected.eval()(images(3)))
    state = actual.state_dict()
    assert list(state) == list(expected.state_dict())
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())


class BatchNormAct(nn.BatchNorm2d):
    """A subclass as in timm, with an activation."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


def test_a_subclass_computes_in_float32_and_keeps_its_forward() -> None:
    expected = nn.Sequential(BatchNormAct(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    actual = deepcopy(expected)
    for _ in range(2):  # a second call changes nothing
        use_float32_batch_norm(actual)
    assert isinstance(actual[0], BatchNormAct)
    assert torch.equal(actual(images(0)), expected(images(0)))
    actual[0].to(torch.bfloat16)
    actual[0].running_mean = expected[0].running_mean.clone()
    actual[0].running_var = expected[0].running_var.clone()
    inputs = images(1).bfloat16()
    out = actual[0](inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected[0](inputs.float()), rtol=1e-2, atol=1e-2)
    assert torch.equal(actual[0].running_mean, expected[0].running_mean)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = network()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.head(batch["x"].to(self.head[0].weight.dtype))
        return out.float()


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_network_with_batch_norm_trains_in_bfloat16(zero: int) -> None:
    """torch's own raises RuntimeError on CPU: its weights are bfloat16, its statistics float32."""
    recipe = Recipe(optimizer="sgd", precision="bf16", zero=zero, clip_norm=0.0)  # type: ignore[arg-type]
    prepare_process("cpu", 1)
    net = Classifier()
    masks = {"head.0.weight": torch.rand(4, 3, 3, 3).numpy() < 0.5}
    start = {name: value.clone() for name, value in net.state_dict().items()}
    with applied(net, masks), start_engine(net, recipe, "cpu") as engine:
        for step in range(3):
            batch = {"x": images(step), "y": torch.tensor([0, 1, 0, 1, 1])}
            engine.step(
                [MicroBatch(batch, 1.0)],
                plain_objective(lambda out, b: nn.functional.cross_entropy(out, b["y"])),
                1e-2,
            )
        weights = engine.weights()
        with torch.no_grad():
            assert net.eval()({"x": images(9)}).isfinite().all()
    assert pruned_nonzero(weights, masks) == 0
    assert weights["head.1.num_batches_tracked"] == 3
    for name in ("head.1.running_mean", "head.1.running_var", "head.1.weight", "head.3.bias"):
        assert weights[name].dtype == torch.float32
        assert not torch.equal(weights[name], start[name])
        # float32 throughout: rounding to bfloat16 would change them
        assert not torch.equal(weights[name], weights[name].bfloat16().float())
