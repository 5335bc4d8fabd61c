"""Tasks on captions: read published files, train with an adversary, and score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import published_files as published
from trainables.errors import DataError
from trainables.models import MODELS
from trainables.run import RunInputs, RunOutcome, run
from trainables.spec import ModelSpec, Options, Recipe, TrainSpec
from trainables.tasks import TASKS
from trainables.training.sink import Action

SIZES: Mapping[str, Options] = {
    "uniter": (("region_dim", published.REGION_DIM), ("vocab_size", 300)),
    "vilt": (),
}
TASK_FORMAT_PAIRS: tuple[tuple[str, str], ...] = (
    ("refcoco", "uniter"),
    ("retrieval", "uniter"),
    ("retrieval", "vilt"),
    ("pretraining", "uniter"),
)


class NullSink:
    """A sink that discards all results."""

    def rewind(self, step: int, payload: bytes) -> None: ...
    def ticket(self, key: str, ticket: Any) -> None: ...
    def checkpoint(self, payload: bytes) -> None: ...
    def heartbeat(self) -> None: ...
    def next_action(self, step: int) -> Action:
        return "continue"

    def progress(self, step: int, values: Any) -> None: ...


def train_task(root: Path, task: str, form: str, sizes: Options) -> RunOutcome:
    tokens = 1000 if task == "pretraining" else 0
    spec = TrainSpec(
        model=ModelSpec(
            architecture=form, size="tiny", overrides=sizes, semantics=MODELS[form].semantics
        ),
        task=published.write_task(root, task, form),
        recipe=Recipe(
            steps=2, batch_size=4, accumulate=2, tokens=tokens, adversary="both", adversary_steps=2
        ),
    )
    return run(spec, RunInputs(data=root, cache=root.parent / "cache"), NullSink())


@pytest.mark.parametrize(("task", "form"), TASK_FORMAT_PAIRS)
def test_two_adversarial_steps_give_scores(task: str, form: str, tmp_path: Path) -> None:
    outcome = train_task(tmp_path / "data", task, form, SIZES[form])
    assert TASKS[task].columns.keys() <= outcome.scores.keys()
    assert all(math.isfinite(value) for value in outcome.scores.values())
    assert 0 <= outcome.scores["score"] <= 100


def test_a_model_with_another_region_dim_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="region features of 8 numbers, the model takes 192"):
        train_task(tmp_path / "data", "refcoco", "uniter", SIZES["uniter"][1:])
