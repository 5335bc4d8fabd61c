"""Runs of the model from outside (`tests/support/toy_model.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import toy_model
from tests.support.paths import ROOT
from trainables.data.fingerprint import fingerprint
from trainables.run import RunInputs
from trainables.spec import ModelSpec, PruneSpec, Recipe, TaskSpec, TrainSpec
from trainables.user_modules import UserModule, install, read_user_module, uninstall

RECIPE = Recipe(steps=6, batch_size=16, accumulate=2, lr=1e-2, dropout=0.0, eval_every=2)


FILE = ROOT / "tests/support/toy_model.py"


def module() -> UserModule:
    return read_user_module(FILE)


@contextmanager
def installed() -> Iterator[None]:
    """Add the toy model and its task to the tables within the context."""
    install([module()])
    try:
        yield
    finally:
        uninstall()


def model(**changes: Any) -> ModelSpec:
    return ModelSpec(
        architecture="toy_model",
        size="tiny",
        overrides=tuple(sorted(changes.items())),
        source=module().sha256,
    )


def prune_spec(**changes: Any) -> PruneSpec:
    return PruneSpec(**{"model": model(), "sparsity": 0.5, "pool": "convolutions"} | changes)


def spec(data: Path, **changes: Any) -> TrainSpec:
    task = TaskSpec(name="toy_model", data=fingerprint(data), source=module().sha256)
    return TrainSpec(**{"model": model(), "task": task, "recipe": RECIPE} | changes)


def inputs(data: Path = Path("unused"), **changes: Any) -> RunInputs:
    return RunInputs(**{"data": data, "cache": Path("unused"), "modules": (module(),)} | changes)


def write_data(folder: Path) -> Path:
    return toy_model.write_data(folder)
