"""Sweepstakes: lottery-ticket sweeps, planned, shared, resumable.

The names in `__all__` are the library; `library.md` shows it in use. Each name is imported when it
is first used, so that `import orchestrator` alone loads nothing heavy. The library prints nothing
unless it is asked to, and its warnings go to the loggers below `orchestrator`.

The packages form layers, from `cli` down to `errors`; each imports only from layers below its own.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api.library import plan, report, run, status
    from orchestrator.api.modules import apply, prune
    from orchestrator.api.results import IncompleteRun
    from orchestrator.api.tickets import TicketStore
    from orchestrator.errors import (
        ConfigError,
        InputError,
        RunError,
        StoreError,
        SweepstakesError,
    )
    from orchestrator.sweep.config import (
        ModelConfig,
        Placement,
        PretrainedBy,
        PrunerConfig,
        RecipeChanges,
        Schedule,
        StoreConfig,
        Study,
        Sweep,
        TaskConfig,
        Win,
    )

__version__ = "0.1.0"

_MODULE_OF = {
    **dict.fromkeys(("plan", "run", "status", "report"), "orchestrator.api.library"),
    **dict.fromkeys(("apply", "prune"), "orchestrator.api.modules"),
    "TicketStore": "orchestrator.api.tickets",
    "IncompleteRun": "orchestrator.api.results",
    **dict.fromkeys(
        ("ConfigError", "InputError", "RunError", "StoreError", "SweepstakesError"),
        "orchestrator.errors",
    ),
    **dict.fromkeys(
        (
            *("ModelConfig", "Placement", "PretrainedBy", "PrunerConfig", "RecipeChanges"),
            *("Schedule", "StoreConfig", "Study", "Sweep", "TaskConfig", "Win"),
        ),
        "orchestrator.sweep.config",
    ),
}

__all__ = [
    "ConfigError",
    "IncompleteRun",
    "InputError",
    "ModelConfig",
    "Placement",
    "PretrainedBy",
    "PrunerConfig",
    "RecipeChanges",
    "RunError",
    "Schedule",
    "StoreConfig",
    "StoreError",
    "Study",
    "Sweep",
    "SweepstakesError",
    "TaskConfig",
    "TicketStore",
    "Win",
    "apply",
    "plan",
    "prune",
    "report",
    "run",
    "status",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())

# Two packages have the name of a function. Python sets a package as an attribute of its parent when
# it is first imported: that happens here, and so it cannot replace the function later.
for _name in ("plan", "report"):
    importlib.import_module(f"{__name__}.{_name}")
    del globals()[_name]
del _name


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
