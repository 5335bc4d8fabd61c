"""A small interface to DeepSpeed: steps at a given learning rate, and exact float32 state.

Undocumented properties of DeepSpeed 0.19:

* `LOCAL_RANK` must be set.
* On CPU its first use compiles a shared-memory kernel for minutes, unless no kernel is compatible.
* Its bf16 mode drops the low bits of the weights before it creates its float32 masters.
* Its bf16 mode takes one optimizer step too many at ZeRO 0. `optim/masters.py` replaces the mode
  there: DeepSpeed runs the passes over bfloat16 weights, and calls our step over the masters.
* At ZeRO 3 its function to set the masters does not update the module's own weights.
* Its statistics synchronize with the GPU before every micro-batch.
* Its default buckets allocate memory for 500 million gradients.
* It fails on weights that are not contiguous, such as those in channels-last format.
* At ZeRO 3 a weight that a step does not use keeps the gradient of its last use.
* An engine leaks unless it is destroyed and collected, and at ZeRO 3 even then.
* From stage 1 on it keeps no masters of frozen weights (without `requires_grad`).
* It leaves buffers alone: they are never partitioned, stay float32 at bf16, and each process has
  its own.

BatchNorm over several processes: each process normalises its own micro-batches by their own
statistics. After each step the running statistics, and all other floating-point buffers, are
averaged over the processes. All processes thus have the same state between two steps, whether or
not it is evaluated or saved there, and a resumed run continues bit for bit. An example that a
process repeats at weight zero (`order.py`) counts in its statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from trainables.distributed.collectives import Peers, Shard, current_peers
from trainables.distributed.process import Device
from trainables.distributed.reduce import all_reduce_gradients, average_buffers
from trainables.distributed.zero import (
    cpu_copies,
    local_weight,
    master_shard,
    state_shard,
    write_shard,
    zero_gradients,
)
from trainables.errors import InvariantError, RecipeError
from trainables.models.batch_norm import use_float32_batch_norm
from trainables.optim.build import (
    Groups,
    build_optimizer,
    check_partitions,
    counts_of,
    init_state,
    set_count,
    set_learning_rates,
    tensor_state_names,
)
from trainables.optim.masters import MasterStep, split_masters
from trainables.spec import Recipe
from trainables.tasks.base import Batch
from trainables.training.adversary import TrainingObjective

OptimizerState: TypeAlias = dict[str, dict[str, Tensor]]
"""Key of the optimizer's state, such as `exp_avg` -> parameter name -> float32 tensor on CPU."""
COUNTS = "step"
"""Key of the numbers of updates of weights that were not updated in every step."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch, or this process's piece of one."""

    batch: Batch
    loss_divisor: float
    """Divisor of the mean loss, chosen so that the losses of a step add up over all processes."""
    seed: int | None = None
    """Seed of dropout in this micro-batch. Without one, the current random stream continues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A network in training, in one process or several.

    Names are those of the network's own state dict. All processes must make the same calls. Methods
    that return full tensors return them at rank 0 only.
    """

    net: nn.Module
    deepspeed: Any
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    device: Device
    peers: Peers
    shapes: Mapping[str, torch.Size]
    """Shapes in the state dict before `deepspeed.initialize`, which empties the parameters at ZeRO
    3."""
    whole_masters: Mapping[str, Tensor]
    """The float32 masters by name at bf16 and ZeRO 0; otherwise empty."""

    def step(
        self, micro_batches: Iterable[MicroBatch], objective: TrainingObjective, lr: float
    ) -> float:
        """Take one optimizer step, and return the loss before it, summed over micro-batches and
        processes, each divided by its `loss_divisor`. Micro-batches are consumed lazily.

        Raises InvariantError if the loss or its gradient is not finite.
        """
        set_learning_rates(self.optimizer, self.recipe, lr, self.deepspeed.global_steps + 1)
        # Above stage 0 DeepSpeed averages over the processes; the sum is wanted.
        scale = self.peers.world_size if self.recipe.zero else 1
        if self.recipe.zero == 3:
            zero_gradients(self.deepspeed.optimizer)
        total = torch.zeros((), device=self.device)
        for micro_batch in micro_batches:
            if micro_batch.seed is not None:
                self.seed(micro_batch.seed)
            batch = {
                name: value.to(self.device, non_blocking=True)
                for name, value in micro_batch.batch.items()
            }
            for loss in objective(self.deepspeed, batch, micro_batch.loss_divisor / scale):
                total += loss.detach()
                self.deepspeed.backward(loss, scale_wrt_gas=False)
        norm: float | Tensor = 0.0
        if self.recipe.zero == 0:
            all_reduce_gradients(self.net.parameters(), self.peers)
            if self.recipe.clip_norm and not self.whole_masters:  # whose step clips by itself
                norm = clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.deepspeed.step()
        with torch.no_grad():
            average_buffers(self._buffers().values(), self.peers)
        # Read the loss and the norm once per step, because reading them synchronizes with the GPU.
        mean = float(self.peers.all_reduce(np.array([float(total)], np.float32))[0]) / scale
        finite = math.isfinite(mean) and math.isfinite(norm)
        if not finite or not self.deepspeed.was_step_applied():
            raise InvariantError(
                f"the loss or its gradient is not finite (loss {mean}); lower the learning rate"
            )
        return mean

    def learning_rates(self) -> list[float]:
        """Return the learning rates of the last step, by parameter group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def update_count(self) -> int:
        """Return how many updates the optimizer has counted. Some do not count; then it is the
        engine's own count."""
        return max(counts_of(self.optimizer).values(), default=self.deepspeed.global_steps)

    def seed(self, value: int) -> None:
        """Seed the network's dropout. `torch.manual_seed` would take 0.8 ms of every step on CPU,
        for devices that do not exist."""
        torch.default_generator.manual_seed(value)
        if self.device == "cuda":
            torch.cuda.manual_seed(value)

    def owned_shards(self) -> dict[str, Shard]:
        """Return CPU copies of this process's shards of the float32 masters and persistent buffers.

        Each element belongs to exactly one process: to rank 0 if all processes have it.
        """
        updated = self._updated()
        return cpu_copies(
            {
                name: self._master(updated[name], name)
                if name in updated
                else self._first_rank_only(Shard(0, value.view(-1)))
                for name, value in self.net.state_dict().items()
            }
        )

    def local_weights(self) -> dict[str, Shard]:
        """Return CPU copies of this process's shards of the module's own parameters, and of its
        persistent buffers, which each process has in full."""
        return cpu_copies(
            {
                name: local_weight(weight, self.recipe.zero, self._size(name), self.peers)
                for name, weight in self._parameters().items()
            }
            | {name: Shard(0, buffer.view(-1)) for name, buffer in self._buffers().items()}
        )

    def weights(self) -> dict[str, Tensor]:
        """Return full CPU copies of the float32 masters and the persistent buffers."""
        return self.peers.gather_shards(self.owned_shards(), self.shapes)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Write the masters and buffers, and the module's own weights rounded from the masters."""
        updated, zero = self._updated(), self.recipe.zero
        with torch.no_grad():
            for name, current in self.net.state_dict().items():
                value = weights[name].to(current.device)
                if current.numel():  # stage 3 keeps only small weights in full, beside the shards
                    current.copy_(value)
                if name in updated and (zero or self.whole_masters):
                    weight, size = updated[name], self._size(name)
                    write_shard(master_shard(weight, zero, size, self.peers), value)
                    if zero == 3:
                        write_shard(local_weight(weight, zero, size, self.peers), value)

    def masters(self) -> dict[str, Tensor]:
        """Return the full float32 masters of the parameters, on the device, in each process. They
        may be views of the engine's: do not write to them."""
        updated, zero = self._updated(), self.recipe.zero
        # In fp32 the module's own weights are the masters.
        if zero == 0 or (self.recipe.precision == "fp32" and zero < 3):
            return {name: weight.detach() for name, weight in updated.items()}
        shards = {
            name: master_shard(weight, zero, self._size(name), self.peers)
            for name, weight in updated.items()
        }
        return self.peers.all_gather_shards(shards, self.shapes)

    def optimizer_state(self) -> OptimizerState:
        """Return full CPU copies of the optimizer's state, which is zero before the first step.

        A weight that a step does not use is not updated at ZeRO 0. Where an optimizer's own count
        of a weight's updates therefore differs from the number of steps, the count is in `COUNTS`.
        """
        updated = self._updated()
        state = {
            key: self.peers.gather_shards(
                cpu_copies(
                    {
                        name: self._owned(self._state(weight, name, key))
                        for name, weight in updated.items()
                    }
                ),
                self.shapes,
            )
            for key in tensor_state_names(self.recipe)
        }
        counts = counts_of(self.optimizer)
        steps = self.deepspeed.global_steps
        skipped = {
            name: torch.tensor(counts[weight])
            for name, weight in updated.items()
            if counts.get(weight, steps) != steps
        }
        return state | {COUNTS: skipped} if skipped else state

    def state_shapes(self) -> dict[str, dict[str, torch.Size]]:
        """Return the names and shapes of what `weights` and `optimizer_state` return: `weights` or
        key of the optimizer's state -> name -> shape. `COUNTS` has all weights that can be in it.
        """
        parameters = {name: self.shapes[name] for name in self._parameters()}
        return {
            "weights": dict(self.shapes),
            **dict.fromkeys(tensor_state_names(self.recipe), parameters),
            COUNTS: dict.fromkeys(parameters, torch.Size()),
        }

    def set_optimizer_state(self, state: OptimizerState, steps: int) -> None:
        """Set the state of the optimizer to that after `steps` updates, which may come from another
        ZeRO stage or another number of processes."""
        self.deepspeed.global_steps = steps
        for weight in self.optimizer.state:
            set_count(self.optimizer, weight, steps)
        updated = self._updated()
        if self.recipe.zero == 0:
            for name, count in state.get(COUNTS, {}).items():
                set_count(self.optimizer, updated[name], int(count))
        for key in tensor_state_names(self.recipe):
            for name, weight in updated.items():
                write_shard(self._state(weight, name, key), state[key][name].to(self.device))

    def has_fresh_state(self) -> bool:
        """Return whether this process's part of the optimizer's state is zero, as before the first
        update."""
        return not any(
            int(torch.count_nonzero(value))
            for state in self.optimizer.state.values()
            for value in state.values()
        )

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.net.named_parameters())

    def _updated(self) -> Mapping[str, Tensor]:
        """Return what the optimizer updates at stage 0; above, the parameters that `zero.py` finds
        the shards of."""
        return self.whole_masters or self._parameters()

    def _buffers(self) -> dict[str, Tensor]:
        return {name: each for name, each in self.net.named_buffers() if name in self.shapes}

    def _size(self, name: str) -> int:
        return self.shapes[name].numel()

    def _master(self, weight: Tensor, name: str) -> Shard:
        return self._owned(master_shard(weight, self.recipe.zero, self._size(name), self.peers))

    def _state(self, weight: Tensor, name: str, key: str) -> Shard:
        return state_shard(
            weight, key, self.optimizer, self.recipe.zero, self._size(name), self.peers
        )

    def _owned(self, shard: Shard) -> Shard:
        """Return the part that belongs to this process: at stage 0 all processes have the same
        elements, which belong to rank 0."""
        return self._first_rank_only(shard) if self.recipe.zero == 0 else shard

    def _first_rank_only(self, shard: Shard) -> Shard:
        return shard if self.peers.is_first else Shard(0, shard.values[:0])


@contextmanager
def start_engine(
    net: nn.Module, recipe: Recipe, device: Device, groups: Groups = MappingProxyType({})
) -> Iterator[Engine]:
    """Start an engine whose float32 masters are exactly the weights of `net`; destroy it at the
    end.

    Its memory is freed by the first `release_memory` after every reference to it is gone. `net`
    must be in float32, on `device`, the same in all processes, and have its masks already applied.
    Its weights become contiguous, and its batch normalizations compute in float32. Inputs may be in
    channels-last format, which keeps most of that format's speed. `groups` are the groups of
    weights that the model names.

    Raises RecipeError for frozen weights at ZeRO 1 and above, and for a group with a factor that no
    weight is in.
    """
    import deepspeed

    _check_frozen(net, recipe)
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = tensor.data.contiguous()
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    exact_weights, whole_masters = {}, {}
    if recipe.precision == "bf16":
        use_float32_batch_norm(net)
        if recipe.zero:
            exact_weights = {
                name: value.detach().to("cpu", copy=True)
                for name, value in net.state_dict().items()
            }
        else:
            whole_masters = split_masters(net)
    updated = whole_masters or dict(net.named_parameters())
    optimizer = build_optimizer(updated, recipe, groups)
    config = _config(recipe, sum(weight.numel() for weight in net.parameters()))
    deepspeed_engine, *_ = deepspeed.initialize(
        model=net,
        # DeepSpeed takes an optimizer of torch's class, or a function that returns any other.
        optimizer=(lambda _: MasterStep(optimizer, net, whole_masters, recipe.clip_norm))
        if whole_masters
        else optimizer,
        config=config,
    )
    if recipe.zero == 3:
        for module in net.modules():
            for weight in getattr(module, "reads", ()):
                deepspeed.zero.register_external_parameter(module, weight)
    check_partitions(optimizer, updated.values(), recipe)
    init_state(optimizer, recipe, deepspeed_engine.optimizer)
    # At ZeRO 1 to 3 DeepSpeed reduces gradients to their partitions; at 0 `Engine.step` sums them.
    deepspeed_engine.enable_backward_allreduce = recipe.zero > 0
    engine = Engine(
        net=net,
        deepspeed=deepspeed_engine,
        optimizer=optimizer,
        recipe=recipe,
        device=device,
        peers=current_peers(),
        shapes=shapes,
        whole_masters=whole_masters,
    )
    try:
        if exact_weights:
            engine.set_weights(exact_weights)
            exact_weights.clear()
        yield engine
    finally:
        deepspeed_engine.destroy()


def _check_frozen(net: nn.Module, recipe: Recipe) -> None:
    """Raise RecipeError where DeepSpeed keeps no float32 masters of frozen weights: at bf16 their
    low bits would be lost, and a checkpoint could not hold them."""
    frozen = [name for name, weight in net.named_parameters() if not weight.requires_grad]
    if recipe.zero and frozen:
        raise RecipeError(
            f"recipe.zero = {recipe.zero} is not allowed with frozen weights, such as {frozen[0]}; "
            "use 0"
        )


@contextmanager
def compiling(net: nn.Module) -> Iterator[None]:
    """Run `net` through `torch.compile` within the context. Names in its state dict do not change.

    Shapes are dynamic from the first batch on, and compiled code is discarded at the end. Otherwise
    the first batch of a run, or earlier runs in the process, could change the run's last bits.
    """
    net.compile(dynamic=True)
    try:
        # Beyond its limit of 8, torch would fall back to eager mode with a log message only.
        with (
            torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True),
            # On a GPU the backward pass runs in another thread, where Inductor would compile
            # without deterministic mode; so everything is compiled in this thread.
            torch._functorch.config.patch(force_non_lazy_backward_lowering=True),
        ):
            yield
    finally:
        net._compiled_call_impl = None
        torch.compiler.reset()


def pin_batch(batch: Batch, device: Device) -> Batch:
    """Copy the batch to pinned memory, from which a GPU copies it asynchronously. A copy from other
    memory would wait until the GPU has finished its queued work."""
    if device == "cpu":
        return batch
    return {name: value.pin_memory() for name, value in batch.items()}


def _config(recipe: Recipe, elements: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # for its statistics only, like the next
        "gradient_accumulation_steps": 1,
        # Gradients add up until `step` is called: `Engine.step` controls the number of backward
        # passes and their weights.
        "managed_gradient_accumulation": False,
        # At stage 0 DeepSpeed reads the norms one by one; `Engine.step` clips instead.
        "gradient_clipping": recipe.clip_norm if recipe.zero else 0.0,
        # Its list of tested optimizers lacks SGD.
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": recipe.precision == "bf16" and recipe.zero > 0},
        # Stage 3 does not shard weights of up to this many elements: biases and norms, because
        # matrices are larger even in a model of size tiny. DeepSpeed's default of 100,000 would not
        # shard a tiny model at all.
        "zero_optimization": {
            "stage": recipe.zero,
            "stage3_param_persistence_threshold": 4000,
            "reduce_bucket_size": elements,  # all gradients in one bucket; it is allocated
        },
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},
    }
