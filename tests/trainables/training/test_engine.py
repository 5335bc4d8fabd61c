"""The engine on a small network: exact masks, exact state, at every stage and precision."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.runs import evenly
from trainables.distributed.process import PATIENCE, prepare_process
from trainables.errors import InvariantError
from trainables.spec import Recipe
from trainables.tickets.weights import kept_sha256, pruned_nonzero, wearing
from trainables.training.adversary import plain
from trainables.training.engine import Engine, started

MODES = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)]
RECIPE = Recipe(steps=8, batch_size=8, accumulate=2, lr=1e-2, weight_decay=0.1, dropout=0.0)


class Small(nn.Module):
    """Parts named as in a Network: a matrix to prune, a vector, a buffer, a head."""

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
    net = Small()
    with ExitStack() as stack:
        if masked:
            stack.enter_context(wearing(net, masks()))
        yield stack.enter_context(started(net, recipe, "cpu"))


def advance(engine: Engine, first: int, last: int) -> list[float]:
    return [engine.step(evenly(batches(step)), plain(loss), 1e-2) for step in range(first, last)]


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
    kept = masks()["backbone.0.weight"]
    assert torch.count_nonzero(final["backbone.0.weight"]) == kept.sum()
    assert all(value.dtype == torch.float32 for value in final.values())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_without_the_hooks_pruned_weights_move(mode: tuple[str, int]) -> None:
    """The control: zeroed weights alone do not stay zero."""
    prepare_process("cpu", 1)
    torch.manual_seed(0)
    net = Small()
    with wearing(net, masks()):
        pass
    with started(net, in_mode(mode), "cpu") as control:
        advance(control, 0, 2)
        assert pruned_nonzero(control.weights(), masks()) == (~masks()["backbone.0.weight"]).sum()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_masters_start_as_the_exact_float32_weights(mode: tuple[str, int]) -> None:
    torch.manual_seed(0)
    before = Small().state_dict()
    with engine(in_mode(mode), masked=False) as fresh:
        assert kept_sha256(fresh.weights(), {}) == kept_sha256(before, {})


@pytest.mark.parametrize("saved", MODES, ids=str)
def test_state_moves_to_a_fresh_engine_bit_for_bit(saved: tuple[str, int]) -> None:
    with engine(in_mode(saved)) as whole:
        advance(whole, 0, 3)
        weights, moments = whole.weights(), whole.moments()
        rest = advance(whole, 3, 6)
        expected = kept_sha256(whole.weights(), {})
    with engine(in_mode(saved)) as resumed:
        resumed.set_weights(weights)
        resumed.set_moments(moments, 3)
        assert advance(resumed, 3, 6) == rest
        assert kept_sha256(resumed.weights(), {}) == expected
        assert pruned_nonzero(resumed.net.state_dict(), masks()) == 0


@pytest.mark.parametrize("restored", MODES, ids=str)
def test_state_can_be_read_at_another_stage(restored: tuple[str, int]) -> None:
    with engine(in_mode(("fp32", 0))) as source:
        advance(source, 0, 3)
        weights, moments = source.weights(), source.moments()
    with engine(in_mode(restored)) as target:
        target.set_weights(weights)
        target.set_moments(moments, 3)
        assert kept_sha256(target.weights(), {}) == kept_sha256(weights, {})
        again = target.moments()
        assert all(kept_sha256(again[kind], {}) == kept_sha256(moments[kind], {}) for kind in again)
        advance(target, 3, 5)
        assert pruned_nonzero(target.weights(), masks()) == 0


def test_stages_train_alike() -> None:
    curves = []
    for zero in (0, 1, 2):
        with engine(in_mode(("fp32", zero))) as each:
            curves.append(advance(each, 0, 6))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)


def test_accumulation_equals_the_whole_batch() -> None:
    def whole(step: int) -> list[dict[str, Tensor]]:
        parts = batches(step)
        return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]}]

    with engine(RECIPE) as split:
        halves = advance(split, 0, 5)
    with engine(replace(RECIPE, accumulate=1)) as one:
        wholes = [one.step(evenly(whole(step)), plain(loss), 1e-2) for step in range(5)]
    assert halves == pytest.approx(wholes, rel=1e-5)


def test_the_head_learns_at_its_own_rate() -> None:
    with engine(replace(RECIPE, head_lr_scale=0.0, weight_decay=0.0)) as frozen_head:
        before = frozen_head.weights()
        advance(frozen_head, 0, 2)
        after = frozen_head.weights()
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["backbone.0.weight"], after["backbone.0.weight"])


def test_vectors_are_not_decayed() -> None:
    """Without a gradient, weight decay alone moves a weight."""
    with engine(replace(RECIPE, weight_decay=0.5, accumulate=1), masked=False) as still:
        before = still.weights()
        nothing = {"x": torch.randn(4, 12), "y": torch.zeros(4, dtype=torch.int64)}
        still.step(evenly([nothing]), plain(lambda logits, batch: logits.sum() * 0.0), 1e-2)
        after = still.weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"backbone.0.weight", "head.weight"}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_loss_that_is_not_finite_ends_the_run(mode: tuple[str, int]) -> None:
    with engine(in_mode(mode)) as diverged, pytest.raises(InvariantError, match="not finite"):
        diverged.step(
            evenly(batches(0)),
            plain(lambda logits, batch: loss(logits, batch) * float("nan")),
            1e-2,
        )


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_step_lets_a_gpu_run_on_and_takes_no_more_room_than_its_gradients(
    zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default DeepSpeed's statistics wait for the device before every micro-batch, from the
    third step on, and its buckets hold 500 million gradients."""
    from deepspeed.accelerator import get_accelerator

    empty, taken, waited = torch.empty, [0], []

    def measured(*size: Any, **options: Any) -> Tensor:
        made: Tensor = empty(*size, **options)
        taken.append(made.numel())
        return made

    with engine(in_mode(("fp32", zero))) as running:
        advance(running, 0, 2)
        gc.collect()  # engines of other tests wait when they go
        monkeypatch.setattr(torch, "empty", measured)
        monkeypatch.setattr(get_accelerator(), "synchronize", lambda: waited.append("here"))
        advance(running, 2, 6)
        monkeypatch.undo()
        assert not waited
        assert max(taken) <= sum(weight.numel() for weight in running.net.parameters())


def test_every_group_waits_as_long_for_the_first_process() -> None:
    """DeepSpeed's own too: an evaluation by the first may take longer than torch's half hour."""
    with engine(in_mode(("fp32", 1))) as sharded:
        for group in (torch.distributed.group.WORLD, sharded.deepspeed.data_parallel_group):
            assert group._get_backend(torch.device("cpu")).options._timeout == PATIENCE


def test_the_first_engine_of_a_process_starts_in_seconds() -> None:
    """Without the guard DeepSpeed compiles C++ for minutes at its first use on CPU."""
    code = (
        "import torch\n"
        "from trainables.spec import Recipe\n"
        "from trainables.training.engine import started\n"
        "from trainables.distributed.process import prepare_process\n"
        "prepare_process('cpu', 1)\n"
        "net = torch.nn.ModuleDict({'head': torch.nn.Linear(3, 3)})\n"
        "with started(net, Recipe(zero=1), 'cpu'):\n"
        "    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
