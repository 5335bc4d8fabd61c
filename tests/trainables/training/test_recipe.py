from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugins import SOURCE, registered
from tests.support.runs import MODEL, RecordingSink
from trainables import run_group
from trainables.errors import RecipeError
from trainables.run import RunInputs
from trainables.spec import Recipe, TaskSpec, TrainSpec
from trainables.tasks import TASKS
from trainables.training.recipe import changed_recipe, check_recipe, check_workers

GROUPS = ("fusion", "text")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"batch_size": 10, "accumulate": 3}, "recipe.accumulate"),
        ({"accumulate": 0}, "recipe.accumulate"),
        ({"warmup": 1.0}, "recipe.warmup"),
        ({"steps": 0}, "recipe.steps"),
        ({"optimizer": "adam"}, "recipe.optimizer = 'adam' is not known; did you mean `adamw`"),
        (
            {"decay": "multistep"},
            "recipe.decay = 'multistep' is not known; did you mean `multi_step`",
        ),
        ({"momentum": 0.8}, "recipe.momentum = 0.8 is not read with optimizer adamw"),
        ({"optimizer": "sgd", "beta1": 0.8}, "recipe.beta1 .* only with adamw; remove it"),
        ({"optimizer": "sgd", "trust_coefficient": 0.1}, "recipe.trust_coefficient .* lars"),
        ({"optimizer": "lars", "nesterov": True}, "recipe.nesterov .* only with sgd"),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, "recipe.nesterov needs"),
        ({"optimizer": "lars", "zero": 1}, "recipe.zero = 1 .* lars, .* use 0"),
        ({"milestones": (3,)}, r"recipe.milestones = \(3,\) is not read .* only with multi_step"),
        ({"decay": "cosine", "power": 2.0}, "recipe.power .* only with polynomial"),
        ({"lr_end": 1e-5}, "recipe.lr_end .* only with cosine or polynomial"),
        ({"decay": "cosine", "lr_end": 1.0}, "recipe.lr_end = 1.0 is above lr"),
        ({"decay": "multi_step"}, "recipe.milestones .* one or more"),
        ({"decay": "multi_step", "milestones": (5, 3)}, "recipe.milestones .* ascending"),
        ({"decay": "multi_step", "milestones": (1000,)}, "recipe.milestones .* below steps"),
        ({"lr_scales": (("fusoin", 2.0),)}, "recipe.lr_scales.* 'fusoin'; did you mean `fusion`"),
        ({"lr_scales": (("fusion", 0.0),)}, "recipe.lr_scales: fusion = 0.0"),
        ({"lr_scales": (("head", 2.0),)}, "recipe.lr_scales.* head_lr_scale"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_with_the_field(
    change: dict[str, object], field: str
) -> None:
    check_recipe(Recipe(), GROUPS)
    with pytest.raises(RecipeError, match=field) as refused:
        check_recipe(replace(Recipe(), **change), GROUPS)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd", "momentum": 0.5, "nesterov": True, "zero": 3},
        {"optimizer": "sgd", "precision": "bf16", "zero": 1, "lr_scales": (("fusion", 2.0),)},
        {"optimizer": "lars", "trust_coefficient": 0.1, "momentum": 0.0},
        {"optimizer": "lars", "precision": "bf16"},
        {"decay": "polynomial", "power": 2.0, "lr_end": 1e-5},
        {"decay": "multi_step", "milestones": (300, 600), "gamma": 0.5},
    ],
)
def test_a_recipe_may_set_what_its_optimizer_and_schedule_read(change: dict[str, Any]) -> None:
    check_recipe(replace(Recipe(), **change), GROUPS)


def test_fields_of_the_old_optimizer_and_schedule_fall_back_to_their_defaults() -> None:
    """A sweep file changes the task's recipe, which may be for another optimizer."""
    bert_adam = Recipe(beta2=0.999, bias_correction=False, decay="multi_step", milestones=(3,))
    changed = changed_recipe(bert_adam, {"optimizer": "sgd", "decay": "linear", "momentum": 0.5})
    assert changed == Recipe(optimizer="sgd", momentum=0.5)
    assert changed_recipe(bert_adam, {"lr": 1.0}) == replace(bert_adam, lr=1.0)
    set_here = changed_recipe(bert_adam, {"optimizer": "sgd", "beta2": 0.9})
    with pytest.raises(RecipeError, match=r"recipe\.beta2 = 0.9 is not read"):
        check_recipe(set_here)
    with pytest.raises(RecipeError, match=r"recipe\.optimizer"):
        changed_recipe(bert_adam, {"optimizer": "sdg"})


def test_token_batches_are_for_recipes_with_a_token_limit() -> None:
    published = Recipe(tokens=5120, token_batches="uniter")
    assert changed_recipe(published, {"tokens": 0}) == Recipe()
    assert changed_recipe(published, {"tokens": 99}) == replace(published, tokens=99)
    set_here = changed_recipe(published, {"tokens": 0, "token_batches": "uniter"})
    with pytest.raises(RecipeError, match=r"recipe\.token_batches = uniter is not read"):
        check_recipe(set_here)


def test_a_task_whose_micro_batches_differ_in_weights_needs_stage_0_or_one_worker() -> None:
    check_workers(Recipe(zero=0), "task routes", 2, varies_parameters=True)
    check_workers(Recipe(zero=2), "task routes", 1, varies_parameters=True)
    for zero in (1, 2, 3):
        recipe = Recipe(zero=zero)  # type: ignore[arg-type]
        check_workers(recipe, "task pretraining", 2, varies_parameters=False)
        with pytest.raises(RecipeError, match=r"task routes with 2 workers.* use zero = 0"):
            check_workers(recipe, "task routes", 2, varies_parameters=True)


def test_a_group_refuses_such_a_task_before_it_starts_a_process() -> None:
    entry = replace(TASKS["easy_vqa"], varies_parameters=True)
    task = TaskSpec(name="routes", data="d", source=SOURCE)
    train_spec = TrainSpec(model=MODEL, task=task, recipe=Recipe(zero=2))
    given = RunInputs(data=Path("unused"), cache=Path("unused"))
    with registered(TASKS, "routes", entry), pytest.raises(RecipeError, match="with 2 workers"):
        run_group.run(train_spec, given, RecordingSink(), workers=2)
