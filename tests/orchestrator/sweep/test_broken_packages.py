"""A package that cannot be imported is refused by those sweeps that use it, and by no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.workspace import plan_sweep
from orchestrator.errors import ConfigError
from orchestrator.sources.names import find_source
from tests.support import plugins
from tests.support.sweeps import sweep_document, write_sweep
from trainables.tickets import units


@pytest.fixture(autouse=True)
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.add_broken_package(monkeypatch)


def refused(folder: Path, content: dict[str, Any]) -> str:
    path = write_sweep(folder, content)
    with pytest.raises(ConfigError) as caught:
        plan_sweep(path, folder / "home")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_sweep_that_does_not_use_it_is_planned(tmp_path: Path) -> None:
    assert len(plan_sweep(write_sweep(tmp_path, sweep_document()), tmp_path / "home").plan)


@pytest.mark.parametrize(
    ("study", "top", "where"),
    [
        ({"model": "broken"}, {}, "studies.main.model = 'broken': "),
        ({"model": "broken-tiny"}, {}, "studies.main.model = 'broken-tiny': "),
        ({"task": "broken"}, {}, "studies.main.task = 'broken': "),
        ({"pruner": "broken"}, {}, "studies.main.pruner = 'broken': "),
        ({"controls": ["broken"]}, {}, "studies.main.controls = 'broken': "),
        ({}, {"strategy": "broken"}, "strategy = 'broken': "),
        ({"recipe": "r"}, {"recipes": {"r": {"optimizer": "broken"}}}, "studies.main.recipe = 'r'"),
        (
            {"recipe": "r"},
            {"recipes": {"r": {"augmentation": "broken"}}},
            "studies.main.recipe = 'r'",
        ),
        (
            {"task": "mine", "recipe": "default"},
            {"tasks": {"mine": {"task": "easy_vqa", "data": "broken://name@revision"}}},
            "tasks.mine.data: ",
        ),
        (
            {"task": "mine", "recipe": "default"},
            {"tasks": {"mine": {"task": "vqa", "data": "here", "format": "broken"}}},
            "tasks.mine.format: ",
        ),
    ],
)
def test_its_parts_are_refused_with_the_key_that_names_them(
    tmp_path: Path, study: dict[str, Any], top: dict[str, Any], where: str
) -> None:
    message = refused(tmp_path, sweep_document(**study) | top)
    assert message.startswith(where)
    assert "entry point broken = 'no_such_package:ENTRY'" in message


def test_it_does_not_hide_what_is_wrong_with_another_name(tmp_path: Path) -> None:
    message = refused(tmp_path, sweep_document(model="unitre-tiny"))
    assert message == "studies.main.model = 'unitre-tiny' is not known; did you mean `uniter-tiny`?"
    tasks = {"mine": {"task": "vqa", "data": "here", "format": "absent"}}
    message = refused(tmp_path, sweep_document(task="mine", recipe="default") | {"tasks": tasks})
    assert message.endswith("has no data in the format absent; formats with: uniter, lxmert, vilt")
    message = refused(tmp_path, sweep_document(model="vilt-tiny", task="vcr", recipe="default"))
    assert message.endswith("task vcr does not support vilt; use a model of uniter")


def test_results_that_used_it_are_shown_by_its_name() -> None:
    assert find_source("broken").label == "broken"
    assert units("broken") == "units"
