"""The schema and the reference of the sweep file are up to date, complete and correct."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.sweep import schema
from orchestrator.sweep.config import RecipeChanges
from orchestrator.sweep.yaml_file import StrictLoader
from tests.support.paths import ROOT
from tests.support.sweeps import sweep_document
from trainables.spec import Recipe

CONFIGS = ROOT / "configs"
SWEEPS = sorted(path for folder in (CONFIGS, CONFIGS / "papers") for path in folder.glob("*.yaml"))


def test_the_committed_schema_is_up_to_date() -> None:
    committed = json.loads((CONFIGS / "sweep.schema.json").read_text())
    assert committed == schema.json_schema(), "run `make reference`"


def test_the_committed_reference_is_up_to_date() -> None:
    assert (CONFIGS / "reference.md").read_text() == schema.reference(), "run `make reference`"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_committed_sweep_names_the_schema_and_meets_it(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == CONFIGS / "sweep.schema.json"
    content = yaml.load(path.read_text(), Loader=StrictLoader)
    jsonschema.validate(content, schema.json_schema())


@pytest.mark.parametrize(
    "change",
    [{"sede": [0]}, {"seed": -1}, {"scope": "galaxy"}, {"schedule": {"rate": 1.5}}],
    ids=lambda change: next(iter(change)),
)
def test_the_schema_refuses_values_that_are_not_allowed(change: dict[str, Any]) -> None:
    jsonschema.validate(sweep_document(), schema.json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(sweep_document(**change), schema.json_schema())


def test_every_key_has_a_meaning_and_recipes_have_their_defaults() -> None:
    written = schema.json_schema()
    models = written["$defs"] | {"Sweep": written}
    for name, model in models.items():
        for key, entry in model["properties"].items():
            assert entry.get("description"), f"{name}.{key} lacks a docstring"
    recipe = models[RecipeChanges.__name__]["properties"]
    in_file = {"milestones": [], "lr_scales": {}}  # a list and a mapping
    assert {key: entry["default"] for key, entry in recipe.items()} == {
        field.name: in_file.get(field.name, field.default) for field in fields(Recipe)
    }
