"""Files in the published formats: two training steps and scores for every task and architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import published_files as published
from tests.support.toy_tasks import TASK_MODEL_PAIRS
from trainables.data.formats import choose_format
from trainables.errors import DataError
from trainables.models import MODELS
from trainables.run import RunInputs, run
from trainables.spec import ModelSpec, Options, Recipe, TaskSpec, TrainSpec
from trainables.training.sink import Action

SETTINGS: Options = (("max_position_embeddings", 64), ("vocab_size", 300))
RECIPE = Recipe(steps=2, batch_size=4, accumulate=2, lr=1e-3, dropout=0.1)


class _NullSink:
    """A sink that discards all results."""

    def progress(self, step: int, point: dict[str, float]) -> None: ...

    def checkpoint(self, payload: bytes) -> None: ...

    def heartbeat(self) -> None: ...

    def next_action(self, step: int) -> Action:
        return "continue"

    def rewind(self, step: int, payload: bytes) -> None: ...

    def ticket(self, key: str, ticket: object) -> None: ...


def _train(task: TaskSpec, architecture: str, folder: Path, settings: Options) -> dict[str, float]:
    regions = MODELS[architecture].modality == "regions"
    overrides = (*settings, ("region_dim", published.REGION_DIM)) if regions else settings
    semantics = MODELS[architecture].semantics
    model = ModelSpec(
        architecture=architecture, size="tiny", overrides=overrides, semantics=semantics
    )
    inputs = RunInputs(data=folder, cache=folder / "cache")
    spec = TrainSpec(model=model, task=task, recipe=RECIPE)
    return run(spec, inputs, _NullSink()).scores  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "architecture"), TASK_MODEL_PAIRS)
def test_every_task_and_model_trains_on_its_official_format(
    task: str, architecture: str, tmp_path: Path
) -> None:
    form = choose_format(task, architecture)
    spec = published.write_task(tmp_path, task, form)
    scores = _train(spec, architecture, tmp_path, SETTINGS)
    assert {"score", "last", "best", "prior", "best_step"} < scores.keys()
    assert all(0 <= value <= 100 for value in scores.values())
    assert _train(spec, architecture, tmp_path, SETTINGS) == scores
    blind = published.task_spec(tmp_path, task, form, (("blind", True),))
    assert _train(blind, architecture, tmp_path, SETTINGS)["prior"] == scores["prior"]


def test_vcr_needs_rows_for_its_extra_words(tmp_path: Path) -> None:
    """The 81 rows that VCR adds cannot be used for words of the vocabulary."""
    spec = published.write_task(tmp_path, "vcr", "uniter")
    small = (("max_position_embeddings", 64), ("vocab_size", 299))
    with pytest.raises(DataError, match=r"381 words, the model has 380; raise its vocab_size by 1"):
        _train(spec, "uniter", tmp_path, small)
