"""Keys depend on content only, never change, and refuse values without an exact JSON form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.plan.keys import canonical_json, from_json, key_of, to_json
from tests.support.sweeps import plan_of, sweep_document
from trainables.spec import ModelSpec, PruneSpec, Recipe, RewindSpec, Start, TaskSpec, TrainSpec

MODEL = ModelSpec(architecture="uniter", size="tiny", overrides=(("num_hidden_layers", 1),))
TASK = TaskSpec(name="easy_vqa", data="a" * 64)
EXAMPLES = {
    "dense": TrainSpec(model=MODEL, task=TASK, recipe=Recipe(steps=10), start=Start(seed=3)),
    "with_ticket": TrainSpec(
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
    "prune": PruneSpec(model=MODEL, sparsity=0.3, run="e" * 64),
    "random": PruneSpec(model=MODEL, method="random", sparsity=0.3, like="c" * 64, seed=1),
    "rewind": RewindSpec(run="e" * 64, step=5),
}
GOLDEN = Path(__file__).parent / "golden_keys.json"


@pytest.mark.parametrize("name", EXAMPLES)
def test_keys_never_change(name: str) -> None:
    """A key that changes hides every trial committed under it. If results change on purpose, raise
    a `semantics` number and add new golden keys; never edit these."""
    assert key_of(EXAMPLES[name]) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_spec_round_trips_through_json(name: str) -> None:
    text = canonical_json(to_json(EXAMPLES[name]))
    assert from_json(json.loads(text)) == EXAMPLES[name]


def test_defaults_are_left_out() -> None:
    assert to_json(RewindSpec(run="r", step=0)) == {"kind": "rewind", "run": "r", "step": 0}
    assert "recipe" in to_json(EXAMPLES["dense"])
    assert "ticket" not in to_json(EXAMPLES["dense"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_numbers_that_json_cannot_represent_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_unknown_types_are_refused() -> None:
    with pytest.raises(TypeError):
        canonical_json({"path": Path("x")})


def test_json_that_is_not_a_spec_is_refused() -> None:
    with pytest.raises(ValidationError):
        from_json({"kind": "rewind", "run": "r", "step": "soon"})


def test_placement_labels_and_the_win_rule_do_not_affect_keys() -> None:
    plan = plan_of(sweep_document(seed=[0, 1]))
    changed = sweep_document(seed=[0, 1]) | {
        "name": "other",
        "win": {"ratio": 0.5},
        "placement": {
            "store": {"url": "s3://other/a", "endpoint": "http://127.0.0.1:1"},
            "cpus": 3,
            "gpus": 0.5,
            "slots": 7,
            "tracking": "none",
        },
    }
    changed["studies"]["renamed"] = changed["studies"].pop("main")
    changed["recipes"]["renamed"] = changed["recipes"].pop("short")
    changed["studies"]["renamed"]["recipe"] = "renamed"
    assert plan_of(changed).trials.keys() == plan.trials.keys()
