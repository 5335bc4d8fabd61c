"""What a training run needs of its spec, before anything heavy is imported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.plugins import registered
from trainables.check import check_training
from trainables.errors import TrainableError
from trainables.models import MODELS
from trainables.spec import ModelSpec, Recipe, Search, Start, TaskSpec, TrainSpec

SPEC = TrainSpec(
    model=ModelSpec(architecture="uniter", size="tiny"),
    task=TaskSpec(name="easy_vqa", data="0" * 64),
    recipe=Recipe(steps=4),
)
ONE_LAYER = replace(SPEC.model, overrides=(("num_hidden_layers", 1),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": Recipe(steps=4, compile=True, zero=3)}, "recipe.compile"),
        ({"model": replace(SPEC.model, overrides=(("hidden_size", 65),))}, "num_attention_heads"),
        ({"model": ONE_LAYER, "start": Start(shuffle="across_depth")}, "two layers or more"),
        ({"task": replace(SPEC.task, options=(("blind", True),))}, "no option 'blind'"),
        ({"search": Search(method="magnitude")}, "search: 'magnitude' is no pruning method with"),
        ({"first_step": 4}, "first_step = 4 is not a step of the recipe; use 0 to 3"),
    ],
)
def test_a_run_that_cannot_start_is_refused(changes: dict[str, Any], message: str) -> None:
    check_training(SPEC)
    with pytest.raises(TrainableError) as caught:
        check_training(replace(SPEC, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adversary_needs_a_model_that_reads_text() -> None:
    recipe = replace(SPEC.recipe, adversary="text")
    check_training(replace(SPEC, recipe=recipe))
    with registered(MODELS, "silent", replace(MODELS["uniter"], tokenizer="")):
        model = replace(SPEC.model, architecture="silent")
        with pytest.raises(TrainableError, match=r"^recipe\.adversary = text .* use image"):
            check_training(replace(SPEC, model=model, recipe=recipe))
