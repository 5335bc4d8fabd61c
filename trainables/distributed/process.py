"""Preparing a process for training: deterministic, and a member of a process group.

DeepSpeed needs a process group even for a single process. The group is never destroyed, because a
second one in the same process fails.
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
from datetime import timedelta
from functools import cache
from typing import Literal, TypeAlias

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

Device: TypeAlias = Literal["cpu", "cuda"]

BACKENDS: dict[Device, str] = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""Communication backends by device. Counts and texts are sent as CPU tensors."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
GROUP_TIMEOUT = timedelta(days=1)
"""Time-out of collective operations. The other processes may wait this long while rank 0 sends a
checkpoint. The parent detects at once that a process has exited, and the watchdog ends a trial that
hangs."""


def prepare_process(device: Device, threads: int) -> None:
    """Make this process deterministic, and start a group of one unless it has joined a group. Safe
    to call before every run."""
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device == "cpu":
        # DeepSpeed sets it to 1, and every optimizer step then opens the GPU driver's library.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode also fills new memory with NaN by default, which costs time in every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # TF32 is off by default for matrices, but on for convolutions: ViLT's patches would lose 13
    # bits.
    torch.backends.cudnn.allow_tf32 = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed creates a group of its own for gradients, and sets no time-out.
    torch.distributed.distributed_c10d.default_pg_timeout = GROUP_TIMEOUT
    if not torch.distributed.is_initialized():
        # A store inside the process needs no port.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        join_group(device, store, rank=0, count=1)
    _import_deepspeed()
    if device == "cuda":
        # The processes of a machine see all of its GPUs; each uses its own.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.cuda.reset_peak_memory_stats()
    else:
        _disable_cpp_operators()
        _keep_freed_memory()


def join_group(device: Device, store: Store, *, rank: int, count: int) -> None:
    """Join the group of the `count` processes of this machine that share `store`."""
    os.environ["LOCAL_RANK"] = str(rank)
    # Gloo and NCCL open sockets even for one process; keep them off the network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if device == "cuda":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        BACKENDS[device], store=store, rank=rank, world_size=count, timeout=GROUP_TIMEOUT
    )


@cache
def _import_deepspeed() -> None:
    """Import DeepSpeed, and exclude all objects that exist now from later garbage collections,
    which then take milliseconds after each run instead of half a second.

    DeepSpeed's autotuner, which is not used here, imports MLflow if it can: 2.4 of 7.3 CPU seconds.
    """
    hidden = {} if "mlflow" in sys.modules else {"mlflow": None}  # None makes the import fail
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        importlib.import_module("deepspeed")
    finally:
        for name in hidden:
            del sys.modules[name]
    gc.collect()
    gc.freeze()


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it to the kernel, which would have to clear
    it again: a base-size step then has 3,500 page faults, not 100,000."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def release_memory(device: Device) -> None:
    """Return a run's memory to the kernel, or to the other processes of the GPU.

    DeepSpeed's engine is a reference cycle and must be collected. This has no effect while a stack
    frame of the run is alive, for example in a traceback.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()  # pinned memory
    elif platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _disable_cpp_operators() -> None:
    """Mark all C++ operators of DeepSpeed as incompatible, which saves minutes of compilation."""
    import deepspeed.ops

    deepspeed.ops.__dict__["__compatible_ops__"] = defaultdict(bool)
