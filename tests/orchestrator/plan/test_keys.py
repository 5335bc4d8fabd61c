"""Keys name content, never move, and refuse what they cannot say exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.plan.keys import canonical, from_json, key_of, to_json
from tests.support.sweeps import document, plan_of
from trainables.spec import CutSpec, ModelSpec, Recipe, RewindSpec, Start, TaskSpec, TrainSpec

MODEL = ModelSpec(architecture="uniter", size="tiny", overrides=(("num_hidden_layers", 1),))
TASK = TaskSpec(name="easy_vqa", data="a" * 64)
EXAMPLES = {
    "dense": TrainSpec(model=MODEL, task=TASK, recipe=Recipe(steps=10), start=Start(seed=3)),
    "worn": TrainSpec(
        model=MODEL,
        task=TASK,
        recipe=Recipe(steps=10, precision="bf16", zero=2),
        start=Start(kind="rewind", trial="b" * 64),
        ticket="c" * 64,
        head="redraw",
    ),
    "pretrained": TrainSpec(
        model=ModelSpec(architecture="vilt"),
        task=TASK,
        recipe=Recipe(),
        start=Start(kind="pretrained", weights="d" * 64, shuffle="within_layer"),
    ),
    "cut": CutSpec(model=MODEL, sparsity=0.3, run="e" * 64),
    "random": CutSpec(model=MODEL, method="random", sparsity=0.3, like="c" * 64, seed=1),
    "rewind": RewindSpec(run="e" * 64, step=5),
}
GOLDEN = Path(__file__).parent / "golden_keys.json"


@pytest.mark.parametrize("name", EXAMPLES)
def test_keys_never_move(name: str) -> None:
    """A key that moves makes every committed trial of it invisible. If results changed on purpose,
    raise a `semantics` number and add new golden keys; never edit these."""
    assert key_of(EXAMPLES[name]) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_spec_survives_json(name: str) -> None:
    text = canonical(to_json(EXAMPLES[name]))
    assert from_json(json.loads(text)) == EXAMPLES[name]


def test_defaults_are_left_out() -> None:
    assert to_json(RewindSpec(run="r", step=0)) == {"kind": "rewind", "run": "r", "step": 0}
    assert "recipe" in to_json(EXAMPLES["dense"])
    assert "ticket" not in to_json(EXAMPLES["dense"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_numbers_that_json_has_no_form_for_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical(value)


def test_unknown_types_are_refused() -> None:
    with pytest.raises(TypeError):
        canonical({"path": Path("x")})


def test_foreign_json_is_refused() -> None:
    with pytest.raises(ValidationError):
        from_json({"kind": "rewind", "run": "r", "step": "soon"})


def test_placement_labels_and_verdicts_do_not_reach_the_keys() -> None:
    here = plan_of(document(seed=[0, 1]))
    elsewhere = document(seed=[0, 1]) | {
        "name": "other",
        "win": {"ratio": 0.5},
        "placement": {
            "store": {"url": "s3://elsewhere/a", "endpoint": "http://127.0.0.1:1"},
            "cpus": 3,
            "gpus": 0.5,
            "slots": 7,
            "tracking": "none",
        },
    }
    elsewhere["studies"]["renamed"] = elsewhere["studies"].pop("main")
    elsewhere["recipes"]["renamed"] = elsewhere["recipes"].pop("short")
    elsewhere["studies"]["renamed"]["recipe"] = "renamed"
    assert plan_of(elsewhere).trials.keys() == here.trials.keys()
