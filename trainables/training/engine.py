"""DeepSpeed behind a small face: steps at a given learning rate, and exact float32 state.

What DeepSpeed 0.19 needs and does not say: `LOCAL_RANK` must be set; on CPU its first use compiles
a shared-memory kernel for minutes unless told that none is compatible; at bf16 it throws away the
low bits of the weights before it makes its float32 masters; at ZeRO 3 its way of setting those
leaves the weights that compute as they were; its statistics make a GPU wait before every
micro-batch; its default buckets take room for 500 million gradients; an engine leaks unless
destroyed and collected, and at ZeRO 3 even then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from trainables.distributed import collectives as peers
from trainables.distributed import zero as shards
from trainables.distributed.collectives import Peers, Stretch
from trainables.distributed.process import Device
from trainables.distributed.reduce import add_up_gradients
from trainables.errors import InvariantError
from trainables.optim.adamw import MOMENTS, adamw, begin_moments, set_rates, updates
from trainables.spec import Recipe
from trainables.training.adversary import Objective

Batch: TypeAlias = Mapping[str, Tensor]
Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""`exp_avg` or `exp_avg_sq` -> parameter name -> float32 tensor on CPU."""


@dataclass(frozen=True, slots=True)
class Micro:
    """A micro-batch, or this process's piece of one."""

    batch: Batch
    parts: float
    """What its mean loss is divided by, so that those of a step, of all processes, add up."""
    seed: int | None = None
    """Of the dropout in it; without, its draws follow those before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A network being trained, by this process or by several. Names are those of the network's own
    state dict. All processes make the same calls; whole tensors are the first one's alone."""

    net: nn.Module
    deepspeed: Any
    optimizer: torch.optim.AdamW
    recipe: Recipe
    device: Device
    peers: Peers
    shapes: Mapping[str, torch.Size]
    """Of the state dict, as they were before DeepSpeed: at ZeRO 3 it empties the parameters."""

    def step(self, micros: Iterable[Micro], objective: Objective, lr: float) -> float:
        """One optimizer step; the sum of the losses before it, of all processes, each divided as
        its micro-batch says. They are taken one by one as they come.

        Raises InvariantError if the loss or its gradient is not finite.
        """
        set_rates(self.optimizer, self.recipe, lr, self.deepspeed.global_steps + 1)
        # Above stage 0 DeepSpeed takes the mean over the processes, of which we want the sum.
        scale = self.peers.count if self.recipe.zero else 1
        total = torch.zeros((), device=self.device)
        for micro in micros:
            if micro.seed is not None:
                self.seed(micro.seed)
            there = {
                name: value.to(self.device, non_blocking=True)
                for name, value in micro.batch.items()
            }
            for value in objective(self.deepspeed, there, micro.parts / scale):
                total += value.detach()
                self.deepspeed.backward(value, scale_wrt_gas=False)
        if self.recipe.zero == 0:
            add_up_gradients(self.net.parameters(), self.peers)
            if self.recipe.clip_norm:
                clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.deepspeed.step()
        # Read once: each reading makes a GPU wait.
        mean = float(self.peers.total(np.array([float(total)], np.float32))[0]) / scale
        if mean - mean != 0 or not self.deepspeed.was_step_applied():
            raise InvariantError(
                f"the loss or its gradient is not finite (loss {mean}); lower the learning rate"
            )
        return mean

    def rates(self) -> list[float]:
        """The learning rates that the last step used, by group of parameters."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def updates(self) -> int:
        """How many updates Adam has counted, whoever made them."""
        return updates(self.optimizer)

    def seed(self, value: int) -> None:
        """Seeds what the network draws, its dropout. `torch.manual_seed` is 0.8 ms of every step on
        CPU, for devices that are not there."""
        torch.default_generator.manual_seed(value)
        if self.device == "cuda":
            torch.cuda.manual_seed(value)

    def held(self) -> dict[str, Stretch]:
        """Copies on CPU of what this process answers for, of the float32 master of every parameter
        and of the persistent buffers: each element is held by one process, the first where all have
        it."""
        parameters = self._parameters()
        return shards.copied(
            {
                name: self._master(parameters[name], name)
                if name in parameters
                else self._of_first(Stretch(0, value.view(-1)))
                for name, value in self.net.state_dict().items()
            }
        )

    def own(self) -> dict[str, Stretch]:
        """Copies on CPU of the module's own parameters as far as they are here."""
        return shards.copied(
            {
                name: shards.own(weight, self.recipe.zero, self._size(name), self.peers)
                for name, weight in self._parameters().items()
            }
        )

    def weights(self) -> dict[str, Tensor]:
        """Whole copies on CPU of what all hold."""
        return self.peers.assembled(self.held(), self.shapes)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Writes masters and buffers, and the module's own weights rounded from the masters."""
        parameters, zero = self._parameters(), self.recipe.zero
        with torch.no_grad():
            for name, here in self.net.state_dict().items():
                value = weights[name].to(here.device)
                if here.numel():  # stage 3 leaves only small ones whole, beside the stretches
                    here.copy_(value)
                if name in parameters and zero:
                    weight, size = parameters[name], self._size(name)
                    shards.write(shards.master(weight, zero, size, self.peers), value)
                    if zero == 3:
                        shards.write(shards.own(weight, zero, size, self.peers), value)

    def moments(self) -> Moments:
        """Whole copies on CPU of Adam's moments, zero before the first step."""
        return {
            kind: self.peers.assembled(
                shards.copied(
                    {
                        name: self._answered_for(self._moment(weight, name, kind))
                        for name, weight in self._parameters().items()
                    }
                ),
                self.shapes,
            )
            for kind in MOMENTS
        }

    def set_moments(self, moments: Moments, steps: int) -> None:
        """Gives the optimizer the moments that it, or one at another stage or among other
        processes, had after `steps`."""
        self.deepspeed.global_steps = steps
        for state in self.optimizer.state.values():
            state["step"].fill_(steps)
        for kind, values in moments.items():
            for name, weight in self._parameters().items():
                shards.write(self._moment(weight, name, kind), values[name].to(self.device))

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.net.named_parameters())

    def _size(self, name: str) -> int:
        return self.shapes[name].numel()

    def _master(self, weight: nn.Parameter, name: str) -> Stretch:
        return self._answered_for(
            shards.master(weight, self.recipe.zero, self._size(name), self.peers)
        )

    def _moment(self, weight: nn.Parameter, name: str, kind: str) -> Stretch:
        return shards.moment(
            weight, kind, self.optimizer, self.recipe.zero, self._size(name), self.peers
        )

    def _answered_for(self, stretch: Stretch) -> Stretch:
        """Nothing, at stage 0, but in the first process: there all have the same."""
        return self._of_first(stretch) if self.recipe.zero == 0 else stretch

    def _of_first(self, stretch: Stretch) -> Stretch:
        return stretch if self.peers.first else Stretch(0, stretch.values[:0])


@contextmanager
def started(net: nn.Module, recipe: Recipe, device: Device) -> Iterator[Engine]:
    """An engine whose float32 masters are exactly the weights of `net`, destroyed at the end. Its
    memory comes free at the first `release_memory` after whoever names it has returned.

    `net` must be in float32, on `device`, the same in all processes, and already wear its mask.
    """
    import deepspeed

    shapes = {name: value.shape for name, value in net.state_dict().items()}
    precise = {}
    if recipe.precision == "bf16":
        precise = {
            name: value.detach().to("cpu", copy=True) for name, value in net.state_dict().items()
        }
    optimizer = adamw(net, recipe)
    config = _config(recipe, sum(weight.numel() for weight in net.parameters()))
    inner, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
    if recipe.zero == 3:
        for part in net.modules():
            for weight in getattr(part, "reads", ()):
                deepspeed.zero.register_external_parameter(part, weight)
    begin_moments(optimizer, inner.optimizer)
    # ZeRO 1 to 3 move gradients to their partitions by it; at 0 `Engine.step` adds them up.
    inner.enable_backward_allreduce = recipe.zero > 0
    engine = Engine(
        net=net,
        deepspeed=inner,
        optimizer=optimizer,
        recipe=recipe,
        device=device,
        peers=peers.here(),
        shapes=shapes,
    )
    try:
        if precise:
            engine.set_weights(precise)
            precise.clear()
        yield engine
    finally:
        inner.destroy()


@contextmanager
def compiling(net: nn.Module) -> Iterator[None]:
    """Runs `net` through `torch.compile` inside; the names in its state dict stay as they are.

    Shapes are symbols from the first batch on, and nothing compiled outlives the run: else what a
    run met first, or what ran before it in the process, could change its last bits.
    """
    net.compile(dynamic=True)
    try:
        # Past its limit, 8, torch would go on without compiling and say so in the log only.
        with (
            torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True),
            # On a GPU the backward pass has a thread of its own, for which Inductor would compile
            # as if nobody had asked for determinism; so all of it is compiled in this one.
            torch._functorch.config.patch(force_non_lazy_backward_lowering=True),
        ):
            yield
    finally:
        net._compiled_call_impl = None
        torch.compiler.reset()


def pinned(batch: Batch, device: Device) -> Batch:
    """In memory from which a GPU takes it while this process goes on; from other memory it would
    first have to end all that it has been given to do."""
    if device == "cpu":
        return batch
    return {name: value.pin_memory() for name, value in batch.items()}


def _config(recipe: Recipe, elements: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # for its own statistics only, like the next
        "gradient_accumulation_steps": 1,
        # Gradients add up until `step` is called: how many backward passes that takes, and how much
        # each weighs, is for `Engine.step` to say.
        "managed_gradient_accumulation": False,
        # At stage 0 it reads the weights' norms one by one; `Engine.step` clips there.
        "gradient_clipping": recipe.clip_norm if recipe.zero else 0.0,
        "bf16": {"enabled": recipe.precision == "bf16"},
        # Stage 3 keeps weights of up to so many elements whole: biases and norms, for matrices are
        # larger even in a model of size tiny. By DeepSpeed's 100,000 that would be kept whole.
        "zero_optimization": {
            "stage": recipe.zero,
            "stage3_param_persistence_threshold": 4000,
            "reduce_bucket_size": elements,  # all gradients in one piece; it is allocated
        },
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},
    }
