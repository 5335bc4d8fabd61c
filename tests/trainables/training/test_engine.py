"""The engine on a small network: exact masks and exact state, at every stage and precision."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.runs import micro_batches
from trainables.distributed.process import GROUP_TIMEOUT, prepare_process
from trainables.errors import InvariantError, RecipeError
from trainables.spec import Recipe
from trainables.tickets.weights import applied, kept_sha256, pruned_nonzero
from trainables.training.adversary import plain_objective
from trainables.training.engine import Engine, start_engine

MODES = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 0), ("bf16", 1), ("bf16", 2)]
RECIPE = Recipe(steps=8, batch_size=8, accumulate=2, lr=1e-2, weight_decay=0.1, dropout=0.0)


class SmallNetwork(nn.Module):
    """Has the names of a Network: a matrix to prune, a vector, a buffer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.Tanh())
        self.head = nn.Linear(24, 3)
        self.register_buffer("scale", torch.tensor([1.5]))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        hidden = self.backbone(batch["x"].to(self.head.weight.dtype))
        logits: Tensor = self.head(hidden) * self.get_buffer("scale")
        return logits.float()


def loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["y"])


def batches(step: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return [
        {
            "x": torch.randn(4, 12, generator=generator),
            "y": torch.randint(3, (4,), generator=generator),
        }
        for _ in range(2)
    ]


def masks() -> dict[str, NDArray[np.bool_]]:
    return {"backbone.0.weight": np.random.default_rng(0).random((24, 12)) < 0.3}


@contextmanager
def engine(recipe: Recipe, *, masked: bool = True) -> Iterator[Engine]:
    prepare_process("cpu", 1)
    torch.manual_seed(0)
    net = SmallNetwork()
    with ExitStack() as stack:
        if masked:
            stack.enter_context(applied(net, masks()))
        yield stack.enter_context(start_engine(net, recipe, "cpu"))


def advance(engine: Engine, first: int, last: int) -> list[float]:
    return [
        engine.step(micro_batches(batches(step)), plain_objective(loss), 1e-2)
        for step in range(first, last)
    ]


def in_mode(mode: tuple[str, int]) -> Recipe:
    return replace(RECIPE, precision=mode[0], zero=mode[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_pruned_weights_stay_exactly_zero_in_module_and_master(mode: tuple[str, int]) -> None:
    with engine(in_mode(mode)) as under_ticket:
        advance(under_ticket, 0, 6)
        final = under_ticket.weights()
        module = under_ticket.net.state_dict()
    assert pruned_nonzero(final, masks()) == 0
    assert pruned_nonzero(module, masks()) == 0
    mask = masks()["backbone.0.weight"]
    assert torch.count_nonzero(final["backbone.0.weight"]) == mask.sum()
    assert all(value.dtype == torch.float32 for value in final.values())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_without_the_hooks_pruned_weights_move(mode: tuple[str, int]) -> None:
    """Control: weights that are only set to zero do not stay zero."""
    prepare_process("cpu", 1)
    torch.manual_seed(0)
    net = SmallNetwork()
    with applied(net, masks()):
        pass
    with start_engine(net, in_mode(mode), "cpu") as control:
        advance(control, 0, 2)
        assert pruned_nonzero(control.weights(), masks()) == (~masks()["backbone.0.weight"]).sum()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_masters_start_as_the_exact_float32_weights(mode: tuple[str, int]) -> None:
    torch.manual_seed(0)
    before = SmallNetwork().state_dict()
    with engine(in_mode(mode), masked=False) as fresh:
        assert kept_sha256(fresh.weights(), {}) == kept_sha256(before, {})


@pytest.mark.parametrize("saved", MODES, ids=str)
def test_state_moves_to_a_fresh_engine_bit_for_bit(saved: tuple[str, int]) -> None:
    with engine(in_mode(saved)) as uninterrupted:
        advance(uninterrupted, 0, 3)
        weights, moments = uninterrupted.weights(), uninterrupted.optimizer_state()
        losses = advance(uninterrupted, 3, 6)
        expected = kept_sha256(uninterrupted.weights(), {})
    with engine(in_mode(saved)) as resumed:
        resumed.set_weights(weights)
        resumed.set_optimizer_state(moments, 3)
        assert advance(resumed, 3, 6) == losses
        assert kept_sha256(resumed.weights(), {}) == expected
        assert pruned_nonzero(resumed.net.state_dict(), masks()) == 0


@pytest.mark.parametrize("restored", MODES, ids=str)
def test_state_can_be_loaded_at_another_stage(restored: tuple[str, int]) -> None:
    with engine(in_mode(("fp32", 0))) as source:
        advance(source, 0, 3)
        weights, moments = source.weights(), source.optimizer_state()
    with engine(in_mode(restored)) as target:
        target.set_weights(weights)
        target.set_optimizer_state(moments, 3)
        assert kept_sha256(target.weights(), {}) == kept_sha256(weights, {})
        loaded = target.optimizer_state()
        assert loaded.keys() == moments.keys()
        assert all(kept_sha256(loaded[k], {}) == kept_sha256(moments[k], {}) for k in loaded)
        advance(target, 3, 5)
        assert pruned_nonzero(target.weights(), masks()) == 0


def test_all_stages_give_the_same_losses() -> None:
    curves = []
    for zero in (0, 1, 2):
        with engine(in_mode(("fp32", zero))) as each:
            curves.append(advance(each, 0, 6))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)


def test_accumulation_equals_the_full_batch() -> None:
    def full_batch(step: int) -> list[dict[str, Tensor]]:
        parts = batches(step)
        return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]}]

    with engine(RECIPE) as accumulating:
        losses = advance(accumulating, 0, 5)
    with engine(replace(RECIPE, accumulate=1)) as single:
        expected = [
            single.step(micro_batches(full_batch(step)), plain_objective(loss), 1e-2)
            for step in range(5)
        ]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_the_head_has_its_own_learning_rate() -> None:
    with engine(replace(RECIPE, head_lr_scale=0.0, weight_decay=0.0)) as frozen_head:
        before = frozen_head.weights()
        advance(frozen_head, 0, 2)
        after = frozen_head.weights()
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["backbone.0.weight"], after["backbone.0.weight"])


def test_vectors_are_not_decayed() -> None:
    """The gradient is zero, so only weight decay moves a weight."""
    with engine(replace(RECIPE, weight_decay=0.5, accumulate=1), masked=False) as decaying:
        before = decaying.weights()
        batch = {"x": torch.randn(4, 12), "y": torch.zeros(4, dtype=torch.int64)}
        decaying.step(
            micro_batches([batch]), plain_objective(lambda logits, _: logits.sum() * 0.0), 1e-2
        )
        after = decaying.weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"backbone.0.weight", "head.weight"}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_loss_that_is_not_finite_ends_the_run(mode: tuple[str, int]) -> None:
    with engine(in_mode(mode)) as diverged, pytest.raises(InvariantError, match="not finite"):
        diverged.step(
            micro_batches(batches(0)),
            plain_objective(lambda logits, batch: loss(logits, batch) * float("nan")),
            1e-2,
        )


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_step_does_not_synchronize_and_allocates_no_more_than_its_gradients(
    zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default DeepSpeed's statistics synchronize before every micro-batch from the third step
    on, and its buckets allocate 500 million gradients."""
    from deepspeed.accelerator import get_accelerator

    empty, sizes, synchronizations = torch.empty, [0], []

    def recorded_empty(*size: Any, **options: Any) -> Tensor:
        tensor: Tensor = empty(*size, **options)
        sizes.append(tensor.numel())
        return tensor

    with engine(in_mode(("fp32", zero))) as running:
        advance(running, 0, 2)
        gc.collect()  # engines of other tests synchronize when they are collected
        monkeypatch.setattr(torch, "empty", recorded_empty)
        monkeypatch.setattr(get_accelerator(), "synchronize", lambda: synchronizations.append(1))
        advance(running, 2, 6)
        monkeypatch.undo()
        assert not synchronizations
        assert max(sizes) <= sum(weight.numel() for weight in running.net.parameters())


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_frozen_weights_are_refused_where_deepspeed_keeps_no_masters_of_them(zero: Any) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].weight.requires_grad_(False)
    refused = pytest.raises(RecipeError, match=rf"zero = {zero} is not allowed .* 0\.weight; use 0")
    with refused, start_engine(net, Recipe(steps=2, zero=zero), "cpu"):
        pass


def test_every_process_group_has_the_long_timeout() -> None:
    """DeepSpeed's own too: an evaluation at rank 0 may take longer than torch's 30 minutes."""
    with engine(in_mode(("fp32", 1))) as sharded:
        for group in (torch.distributed.group.WORLD, sharded.deepspeed.data_parallel_group):
            assert group._get_backend(torch.device("cpu")).options._timeout == GROUP_TIMEOUT


def test_the_first_engine_of_a_process_compiles_nothing(tmp_path: Path) -> None:
    """By default DeepSpeed compiles C++ for minutes at its first use on CPU."""
    code = (
        "import torch\n"
        "from trainables.spec import Recipe\n"
        "from trainables.training.engine import start_engine\n"
        "from trainables.distributed.process import prepare_process\n"
        "prepare_process('cpu', 1)\n"
        "net = torch.nn.ModuleDict({'head': torch.nn.Linear(3, 3)})\n"
        "with start_engine(net, Recipe(zero=1), 'cpu'):\n"
        "    pass\n"
    )
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not [*tmp_path.iterdir()]
