"""Optimizers, schedules and parameter groups in a sweep file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.plan.keys import from_json, key_of, to_json
from tests.support.plugins import SOURCE, registered
from tests.support.sweeps import plan_of, sweep_document
from trainables.models import MODELS
from trainables.optim import OPTIMIZERS
from trainables.spec import TrainSpec
from trainables.tasks import TASKS


def dense_run(recipe: dict[str, Any]) -> TrainSpec:
    content = sweep_document(schedule={"levels": 0})
    content["recipes"]["short"] |= recipe
    (spec,) = (trial.spec for trial in plan_of(content).trials.values())
    assert isinstance(spec, TrainSpec)
    return spec


def test_a_recipe_names_optimizer_schedule_and_milestones() -> None:
    changes: dict[str, Any] = {"optimizer": "sgd", "decay": "multi_step", "milestones": [4, 8]}
    recipe = dense_run(changes).recipe
    default = TASKS["easy_vqa"].recipes["uniter"]
    assert recipe == replace(
        default, steps=10, batch_size=8, optimizer="sgd", decay="multi_step", milestones=(4, 8)
    )


def test_lr_scales_is_a_mapping_whose_order_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = {"text": ("backbone.embeddings.",), "pooler": ("backbone.pooler.",)}
    entry = replace(MODELS["uniter"], groups=groups)
    monkeypatch.setitem(MODELS._builtin, "uniter", entry)  # type: ignore[attr-defined]
    one = dense_run({"lr_scales": {"text": 0.5, "pooler": 5}})
    two = dense_run({"lr_scales": {"pooler": 5.0, "text": 0.5}})
    assert one.recipe.lr_scales == (("pooler", 5.0), ("text", 0.5))
    assert key_of(one) == key_of(two) != key_of(dense_run({}))
    assert from_json(to_json(one)) == one


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"optimizer": "sdg"}, "recipes.short.optimizer = 'sdg' is not known; did you mean `sgd`?"),
        ({"optimizer": "lars", "zero": 1}, "recipes.short.zero = 1 is not allowed"),
        ({"momentum": 0.5}, "recipes.short.momentum = 0.5 is not read"),
        ({"lr_scales": {"fusion": 5.0}}, "recipes.short.lr_scales: the model has no group"),
        ({"decay": "cosin"}, "did you mean `cosine`?"),
    ],
)
def test_what_cannot_be_trained_is_refused_while_planning(
    recipe: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        dense_run(recipe)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_source_of_an_optimizer_from_outside_enters_the_key() -> None:
    with registered(OPTIMIZERS, "mine", replace(OPTIMIZERS["sgd"])):
        mine = dense_run({"optimizer": "mine", "momentum": 0.5})
    assert mine.sources == (("sweepstakes.optimizers/mine", SOURCE),)
    other = (("sweepstakes.optimizers/mine", "6" * 64),)
    assert key_of(mine) != key_of(replace(mine, sources=other))
