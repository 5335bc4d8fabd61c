"""The contract suites for authors, on every built-in part and on parts from outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.schedule.strategy import STRATEGIES
from orchestrator.sources import SOURCES
from orchestrator.sweep.config import Sweep
from orchestrator.testing import check_source_contract, check_strategy_contract
from tests.support import outside_data, plugins, runs, toy_runs
from tests.support.paths import ROOT
from tests.support.sweeps import sweep_document
from trainables import testing
from trainables.data.augmentation import AUGMENTATIONS
from trainables.models import MODELS
from trainables.optim import OPTIMIZERS
from trainables.pruning import PRUNERS
from trainables.spec import ModelSpec, Recipe
from trainables.tasks.base import TaskSource
from trainables.tickets import TICKET_KINDS
from trainables.user_modules import install, read_user_module, uninstall

TINY = ModelSpec(architecture="uniter", size="tiny")
FILES = ("toy_model", "toy_pairs", "toy_kind", "toy_search")


@pytest.fixture(autouse=True)
def _parts_from_outside() -> Iterator[None]:
    """Install the model, the task, the kind and the method of `tests/support`, as files."""
    install(read_user_module(ROOT / f"tests/support/{name}.py") for name in FILES)
    with outside_data.installed(outside_data.LINES, outside_data.INVERT):
        yield
    uninstall()


@pytest.mark.parametrize("name", [*MODELS, "toy_model", "toy_pairs"])
def test_models(name: str) -> None:
    testing.check_model_contract(name, "tiny")


def test_a_group_of_weights_that_no_parameter_is_in() -> None:
    for prefix in ("stem.", "backbone.stemm."):
        groups = {"stem": ("backbone.stem.", "head.", prefix)}
        MODELS.add("toy_model", replace(MODELS["toy_model"], groups=groups), plugins.SOURCE)
        with pytest.raises(AssertionError, match=f"group 'stem': .* begins with '{prefix}'"):
            testing.check_model_contract("toy_model", "tiny")


@pytest.mark.parametrize("architecture", ["uniter", "vilt"])
def test_tasks(architecture: str, tmp_path: Path) -> None:
    model = ModelSpec(architecture=architecture, size="tiny")
    source = TaskSource(runs.data(), tmp_path)
    testing.check_task_contract(runs.spec().task, model, source)


def test_a_task_from_outside(tmp_path: Path) -> None:
    data = toy_runs.write_data(tmp_path / "data")
    source = TaskSource(data, tmp_path / "cache")
    testing.check_task_contract(toy_runs.spec(data).task, toy_runs.model(), source)


@pytest.mark.parametrize("name", [*PRUNERS, "toy_kind"])
def test_pruning_methods(name: str) -> None:
    testing.check_pruner_contract(name)


@pytest.mark.parametrize("name", PRUNERS)
def test_pruning_methods_on_convolutions(name: str) -> None:
    testing.check_pruner_contract(name, toy_runs.model())


@pytest.mark.parametrize("name", [*TICKET_KINDS, "toy_kind", "toy_search"])
def test_ticket_kinds(name: str) -> None:
    testing.check_ticket_kind_contract(name, TINY)


def test_a_ticket_of_convolutions() -> None:
    testing.check_ticket_kind_contract("weights", toy_runs.model())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    testing.check_optimizer_contract(name)


def test_an_optimizer_with_other_settings() -> None:
    recipe = Recipe(optimizer="sgd", nesterov=True, momentum=0.5, weight_decay=0.1, lr=0.1)
    testing.check_optimizer_contract("sgd", recipe)


@pytest.mark.parametrize("name", [*(name for name in AUGMENTATIONS if name != "none")])
def test_augmentations(name: str) -> None:
    testing.check_augmentation_contract(name)


def test_a_format_from_outside(tmp_path: Path) -> None:
    outside_data.write_lines(tmp_path)
    testing.check_format_contract("lines", "vqa", tmp_path)


ARGUMENTS = {"": "", "model": "second", "task": "there"}


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].module])
def test_sources(name: str) -> None:
    entry = SOURCES[name]
    changes = {"pruner": "toy_search"} if entry.pruner_needs == ("search",) else {}
    check_source_contract(name, ARGUMENTS[entry.parameter], changes)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name: str) -> None:
    content = sweep_document() | {"strategy": name}
    check_strategy_contract(name, Sweep.model_validate(content))
