"""Tasks on captions from published files to a score: read, trained under an adversary, scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import published_files as published
from trainables.errors import DataError
from trainables.models import Format
from trainables.run import Inputs, Outcome, run
from trainables.spec import ModelSpec, Options, Recipe, TrainSpec
from trainables.tasks import TASKS
from trainables.training.sink import Turn

SIZES: Mapping[Format, Options] = {
    "uniter": (("region_dim", published.WIDTH), ("vocab_size", 300)),
    "vilt": (),
}
CELLS: tuple[tuple[str, Format], ...] = (
    ("refcoco", "uniter"),
    ("retrieval", "uniter"),
    ("retrieval", "vilt"),
    ("pretraining", "uniter"),
)


class Nowhere:
    """A sink that forgets what it is given."""

    def rewind(self, step: int, payload: bytes) -> None: ...
    def cut(self, key: str, masks: Any) -> None: ...
    def checkpoint(self, payload: bytes) -> None: ...
    def alive(self) -> None: ...
    def turn(self, step: int) -> Turn:
        return "go on"

    def progress(self, step: int, values: Any) -> None: ...


def trained(root: Path, task: str, form: Format, sizes: Options) -> Outcome:
    tokens = 1000 if task == "pretraining" else 0
    spec = TrainSpec(
        model=ModelSpec(architecture=form, size="tiny", overrides=sizes),
        task=published.write(root, task, form),
        recipe=Recipe(
            steps=2, batch_size=4, accumulate=2, tokens=tokens, adversary="both", adversary_steps=2
        ),
    )
    return run(spec, Inputs(data=root, cache=root.parent / "cache"), Nowhere())


@pytest.mark.parametrize(("task", "form"), CELLS)
def test_two_adversarial_steps_and_a_score(task: str, form: Format, tmp_path: Path) -> None:
    outcome = trained(tmp_path / "data", task, form, SIZES[form])
    assert TASKS[task].columns.keys() <= outcome.scores.keys()
    assert all(math.isfinite(value) for value in outcome.scores.values())
    assert 0 <= outcome.scores["score"] <= 100


def test_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="region features of 8 numbers, the model takes 192"):
        trained(tmp_path / "data", "refcoco", "uniter", SIZES["uniter"][1:])
