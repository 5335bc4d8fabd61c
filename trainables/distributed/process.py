"""Making a process fit to train: deterministic, and a member of a group, be it of one.

DeepSpeed needs a process group even alone, which is never torn down: a second one in the same
process fails.
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
"""What talks for tensors on which device; counts and texts stay on the CPU."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PATIENCE = timedelta(days=1)
"""For the others of a group, which may wait while the first hands over a checkpoint. That one of
them died shows at once, and who watches the trial ends one that hangs."""


def prepare_process(device: Device, threads: int) -> None:
    """Makes this process deterministic, and a group of one unless it has joined one; safe to call
    before every run."""
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device == "cpu":
        # DeepSpeed would have it 1, and every optimizer step then open the GPU driver's library.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode would also fill fresh memory with NaN, at a cost in every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # Matrices are exempt by default; convolutions, such as ViLT's of patches, would lose 13 bits.
    torch.backends.cudnn.allow_tf32 = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed makes a group of its own, over which gradients travel, and names no time-out.
    torch.distributed.distributed_c10d.default_pg_timeout = PATIENCE
    if not torch.distributed.is_initialized():
        # A store inside the process: no port to choose, to race for or to leave open.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        join(device, store, rank=0, count=1)
    _import_once()
    if device == "cuda":
        # In a group the processes of a machine see all its GPUs, and each takes its own.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.cuda.reset_peak_memory_stats()
    else:
        _forbid_compiling()
        _keep_freed_memory()


def join(device: Device, store: Store, *, rank: int, count: int) -> None:
    """Joins the `count` processes of this machine that meet at `store`."""
    os.environ["LOCAL_RANK"] = str(rank)
    # Gloo and NCCL open sockets even alone; keep them off the network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if device == "cuda":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        BACKENDS[device], store=store, rank=rank, world_size=count, timeout=PATIENCE
    )


@cache
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


def release_memory(device: Device) -> None:
    """Gives what a run held back to the kernel, or to the GPU's other processes. DeepSpeed's engine
    is a cycle of references, which stays until it is collected: to no avail as long as a frame of
    the run is there."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()  # pinned memory
    elif platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _forbid_compiling() -> None:
    """Tells DeepSpeed that no C++ operator is compatible, which spares minutes of compiler."""
    import deepspeed.ops

    deepspeed.ops.__dict__["__compatible_ops__"] = defaultdict(bool)
