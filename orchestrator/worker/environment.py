"""What a result may depend on beyond its key, and a record therefore names."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def environment(device: str) -> dict[str, str]:
    """What a result may depend on beyond its key: library versions and hardware."""
    libraries = ("torch", "deepspeed", "transformers", "numpy", "ray")
    found = {name: version(name) for name in libraries}
    found["python"] = platform.python_version()
    found["machine"] = f"{platform.system()} {platform.machine()}"
    if device == "cuda":
        import torch

        # Where a trial spans machines, this one may have none.
        here = torch.cuda.is_available()
        found["device"] = torch.cuda.get_device_name() if here else "a GPU of another machine"
    else:
        found["device"] = _cpu_name()
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "cpu")
