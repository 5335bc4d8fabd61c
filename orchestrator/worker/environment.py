"""What a result may depend on beyond its key, and therefore a record contains."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def collect_environment(device: str) -> dict[str, str]:
    """Return the versions of libraries and the hardware that a result may depend on."""
    libraries = ("torch", "deepspeed", "transformers", "numpy", "ray")
    values = {name: version(name) for name in libraries}
    values["python"] = platform.python_version()
    values["machine"] = f"{platform.system()} {platform.machine()}"
    if device == "cuda":
        import torch

        # In a multi-node trial the calling process may have no GPU.
        if torch.cuda.is_available():
            values["device"] = torch.cuda.get_device_name()
        else:
            values["device"] = "a GPU of another machine"
    else:
        values["device"] = _cpu_name()
    return values


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "cpu")
