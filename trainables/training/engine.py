"""DeepSpeed behind a small face: steps at a given learning rate, and exact float32 state.

What DeepSpeed 0.19 needs and does not say: `LOCAL_RANK` must be set; on CPU its first use compiles
a shared-memory kernel for minutes unless told that none is compatible; at bf16 it throws away the
low bits of the weights before it makes its float32 masters; an engine leaks unless destroyed and
collected. Its process group is never torn down: a second one in the same process fails.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import platform
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from trainables.errors import InvariantError
from trainables.spec import Recipe
from trainables.training.adversary import Objective
from trainables.training.optimizer import MOMENTS, adamw, begin_moments, set_rates, updates

Device: TypeAlias = Literal["cpu", "cuda"]
Batch: TypeAlias = Mapping[str, Tensor]
Moments: TypeAlias = dict[str, dict[str, Tensor]]
"""`exp_avg` or `exp_avg_sq` -> parameter name -> float32 tensor on CPU."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def prepare_process(device: Device, threads: int) -> None:
    """Makes this process deterministic and a world of one; safe to call before every run."""
    os.environ["DS_ACCELERATOR"] = device
    os.environ["LOCAL_RANK"] = "0"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Gloo opens a socket even alone; keep it off the network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if device == "cpu":
        # DeepSpeed would have it 1, and every optimizer step then open the GPU driver's library.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode would also fill fresh memory with NaN, at a cost in every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not torch.distributed.is_initialized():
        _import_once()
        # A store inside the process: no port to choose, to race for or to leave open.
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        _forbid_compiling()
        _keep_freed_memory()


def _import_once() -> None:
    """Imports DeepSpeed and takes all that is alive now out of later garbage collections, which
    then take milliseconds after each run instead of half a second."""
    importlib.import_module("deepspeed")
    gc.collect()
    gc.freeze()


def _keep_freed_memory() -> None:
    """Lets glibc hand freed memory out again instead of returning it to the kernel, which would
    have to clear it anew: a base-size step then meets 3,500 page faults, not 100,000."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _release_freed_memory(device: Device) -> None:
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _forbid_compiling() -> None:
    """Tells DeepSpeed that no C++ operator is compatible, which spares minutes of compiler."""
    import deepspeed.ops

    deepspeed.ops.__dict__["__compatible_ops__"] = defaultdict(bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A network being trained. Names are those of the network's own state dict."""

    net: nn.Module
    deepspeed: Any
    optimizer: torch.optim.AdamW
    recipe: Recipe
    device: Device

    def step(self, batches: Sequence[Batch], objective: Objective, lr: float) -> float:
        """One optimizer step over micro-batches that count alike, whatever their sizes; the mean
        loss before it.

        Raises InvariantError if the loss or its gradient is not finite.
        """
        set_rates(self.optimizer, self.recipe, lr, self.deepspeed.global_steps + 1)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            there = {name: value.to(self.device) for name, value in batch.items()}
            for value in objective(self.deepspeed, there, len(batches)):
                total += value.detach()
                self.deepspeed.backward(value, scale_wrt_gas=False)
        if self.recipe.zero == 0 and self.recipe.clip_norm:
            clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.deepspeed.step()
        mean = float(total)  # read once: each reading makes a GPU wait
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

    def weights(self) -> dict[str, Tensor]:
        """Copies on CPU: the float32 master of every parameter, and the persistent buffers."""
        parameters = dict(self.net.named_parameters())
        return {
            name: self._master(parameters[name]) if name in parameters else _copy(value)
            for name, value in self.net.state_dict().items()
        }

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Writes masters and buffers, and the module's own weights rounded from the masters."""
        from deepspeed.utils import safe_set_full_fp32_param

        parameters = dict(self.net.named_parameters())
        with torch.no_grad():
            for name, here in self.net.state_dict().items():
                value = weights[name].to(here.device)
                here.copy_(value)
                if name in parameters:
                    safe_set_full_fp32_param(parameters[name], value)

    def moments(self) -> Moments:
        """Copies of Adam's moments, zero before the first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        return {
            kind: {
                name: _copy(
                    safe_get_full_optimizer_state(weight, kind)
                    if _has_master(weight)
                    else self.optimizer.state[weight][kind]
                )
                for name, weight in self.net.named_parameters()
            }
            for kind in MOMENTS
        }

    def set_moments(self, moments: Moments, steps: int) -> None:
        """Gives the optimizer the moments that it, or one at another stage, had after `steps`."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.deepspeed.global_steps = steps
        for state in self.optimizer.state.values():
            state["step"].fill_(steps)
        for kind, values in moments.items():
            for name, weight in self.net.named_parameters():
                value = values[name].to(weight.device)
                if _has_master(weight):
                    safe_set_full_optimizer_state(weight, value, kind)
                else:
                    self.optimizer.state[weight][kind].copy_(value)

    def _master(self, weight: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        return _copy(safe_get_full_fp32_param(weight) if _has_master(weight) else weight)


@contextmanager
def started(net: nn.Module, recipe: Recipe, device: Device) -> Iterator[Engine]:
    """An engine whose float32 masters are exactly the weights of `net`, destroyed at the end.

    `net` must be in float32, on `device`, and already wear its mask.
    """
    import deepspeed

    precise = {}
    if recipe.precision == "bf16":
        precise = {name: _copy(value) for name, value in net.state_dict().items()}
    optimizer = adamw(net, recipe)
    inner, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=_config(recipe))
    begin_moments(optimizer, inner.optimizer)
    # Nobody is there to reduce gradients with; ZeRO 1 and 2 move them to their partitions by it.
    inner.enable_backward_allreduce = recipe.zero > 0
    engine = Engine(net=net, deepspeed=inner, optimizer=optimizer, recipe=recipe, device=device)
    try:
        if precise:
            engine.set_weights(precise)
            precise.clear()
        yield engine
    finally:
        inner.destroy()
        del inner, engine, optimizer
        gc.collect()
        _release_freed_memory(device)


@contextmanager
def compiling(net: nn.Module) -> Iterator[None]:
    """Runs `net` through `torch.compile` inside; the names in its state dict stay as they are.

    Shapes are symbols from the first batch on, and nothing compiled outlives the run: else what a
    run met first, or what ran before it in the process, could change its last bits.
    """
    net.compile(dynamic=True)
    try:
        # Past its limit, 8, torch would go on without compiling and say so in the log only.
        with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
            yield
    finally:
        net._compiled_call_impl = None
        torch.compiler.reset()


def _config(recipe: Recipe) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # for its own statistics only, like the next
        "gradient_accumulation_steps": 1,
        # Gradients add up until `step` is called: how many backward passes that takes, and how much
        # each weighs, is for `Engine.step` to say.
        "managed_gradient_accumulation": False,
        # At stage 0 it reads the weights' norms one by one; `Engine.step` clips there.
        "gradient_clipping": recipe.clip_norm if recipe.zero else 0.0,
        "bf16": {"enabled": recipe.precision == "bf16"},
        "zero_optimization": {"stage": recipe.zero},
        "steps_per_print": None,
    }


def _has_master(weight: nn.Parameter) -> bool:
    """ZeRO 1 and 2 keep a float32 copy of the weight; at ZeRO 0 in fp32 it is its own."""
    return getattr(weight, "_hp_mapping", None) is not None


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)
