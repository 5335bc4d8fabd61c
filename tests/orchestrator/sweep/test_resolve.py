"""What planning accepts also starts: it refuses what a worker would, and names the sweep's key."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.expand.studies import expand_sweep
from orchestrator.plan.graph import Plan
from orchestrator.sweep.resolve import Resolver
from orchestrator.sweep.sweep_file import load_sweep
from tests.support.sweeps import STUDY, fake_fingerprint, sweep_document, write_sweep
from trainables.check import check_training
from trainables.spec import TrainSpec

RETRIEVAL = {"task": "retrieval", "data": "/pairs"}
PRETRAINING = {"task": "pretraining", "data": "/captions"}


def plan_file(folder: Path, content: dict[str, Any]) -> Plan:
    return expand_sweep(Resolver(load_sweep(write_sweep(folder, content)), fake_fingerprint))


def with_task(entry: dict[str, Any], **options: Any) -> dict[str, Any]:
    return sweep_document(task="mine", recipe="default") | {
        "tasks": {"mine": entry | {"options": options}}
    }


def with_recipe(**changes: Any) -> dict[str, Any]:
    return sweep_document() | {"recipes": {"short": {"steps": 10, "batch_size": 8} | changes}}


def with_model(**entry: Any) -> dict[str, Any]:
    model = {"architecture": "uniter", "size": "tiny"} | entry
    return sweep_document(model="mine") | {"models": {"mine": model}}


@pytest.mark.parametrize(
    ("content", "key", "advice"),
    [
        (with_recipe(compile=True, zero=3), "recipes.short.compile", "2 or less"),
        (with_recipe(warmup=1.0), "recipes.short.warmup = 1.0", "below 1"),
        (with_recipe(batch_size=33, accumulate=5), "recipes.short.accumulate = 5", "divisor"),
        (with_model(overrides={"hiden_size": 32}), "models.mine.overrides", "mean `hidden_size`?"),
        (with_model(overrides={"hidden_size": 65}), "models.mine.overrides", "num_attention_heads"),
        (with_model(overrides={"type_vocab_size": 1}), "models.mine.overrides", "give 2 or more"),
        (
            with_model(overrides={"num_hidden_layers": 1})
            | {"studies": {"main": STUDY | {"model": "mine", "controls": ["shuffle_across"]}}},
            "studies.main.controls = 'shuffle_across'",
            "two layers",
        ),
        (with_model(size="tinny"), "models.mine.size = 'tinny'", "did you mean `tiny`?"),
        (with_model(architecture="unitr"), "models.mine.architecture", "did you mean `uniter`?"),
        (with_task(RETRIEVAL, split="foo"), "tasks.mine.options: ", "split = 'foo'; use val or"),
        (with_task(RETRIEVAL, eval_images=-1), "tasks.mine.options: ", "eval_images = -1; use 0"),
        (with_task(RETRIEVAL, blind="yes"), "tasks.mine.options: ", "blind = 'yes'; give a bool"),
        (with_task(RETRIEVAL, blnd=True), "tasks.mine.options: ", "did you mean `blind`?"),
        (with_task(PRETRAINING, objectives="itm:1"), "tasks.mine.options: ", "with mlm"),
        (with_task(PRETRAINING, corpora="coc"), "tasks.mine.options: ", "some of coco, vg"),
        (sweep_document(controls=["transfer:easy_vqq"]), "studies.main.controls", "`easy_vqa`?"),
        (sweep_document(tickets=["init:unitr"]), "studies.main.tickets", "mean `uniter`?"),
        (sweep_document(tickets=["init:vilt-tiny"]), "studies.main.tickets: init:vilt", "only"),
        (sweep_document() | {"placement": {"workers": 3, "nodes": 2}}, "placement.workers = 3", ""),
        (sweep_document() | {"placement": {"workers": 2, "gpus": 0.5}}, "placement.gpus = 0.5", ""),
    ],
)
def test_what_a_worker_would_refuse_is_refused_while_planning(
    tmp_path: Path, content: dict[str, Any], key: str, advice: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_file(tmp_path, content)
    message = str(caught.value)
    assert key in message
    assert advice in message
    assert "\n" not in message


def test_a_folder_is_no_weights_file_and_a_file_no_folder_of_data(tmp_path: Path) -> None:
    weights = with_model(weights=str(tmp_path))
    with pytest.raises(ConfigError, match=r"models\.mine\.weights = .* is a folder"):
        plan_file(tmp_path, weights)
    (tmp_path / "data").write_text("")
    data = with_task({"task": "vqa", "data": str(tmp_path / "data")})
    with pytest.raises(ConfigError, match=r"tasks\.mine\.data = .* is a file"):
        plan_file(tmp_path, data)


def test_a_token_limit_leaves_the_batch_size_unread(tmp_path: Path) -> None:
    plan = plan_file(tmp_path, with_recipe(tokens=5120, batch_size=33, accumulate=5))
    for trial in plan.training_runs():
        assert isinstance(trial.spec, TrainSpec)
        check_training(trial.spec)


@pytest.mark.parametrize("key", ["tickets", "controls"])
def test_a_source_with_a_parameter_can_be_in_either_list(tmp_path: Path, key: str) -> None:
    empty: dict[str, Any] = {"tickets": [], "controls": []}
    content = sweep_document(
        task=["easy_vqa", "other"], **empty | {key: ["init:drawn", "transfer:other"]}
    )
    content["tasks"] = {"other": {"task": "easy_vqa", "data": "/other"}}
    content["models"] = {"drawn": {"architecture": "uniter", "size": "tiny"}}
    sources = {cell.curve.source for cell in plan_file(tmp_path, content).cells}
    assert {"init:drawn", "transfer:other"} <= sources


def test_only_the_combinations_of_a_study_must_be_supported(tmp_path: Path) -> None:
    """LXMERT cannot be trained on easy-VQA, and is not, if the two are never combined."""
    content = sweep_document(
        model=["uniter-tiny", "lxmert-tiny"],
        task=["easy_vqa", "questions"],
        recipe="default",
        zip=[["model", "task"]],
        controls=[],
    )
    content["tasks"] = {"questions": {"task": "vqa", "data": "/vqa"}}
    pairs = {(cell.curve.model, cell.curve.task) for cell in plan_file(tmp_path, content).cells}
    assert pairs == {("uniter-tiny", "easy_vqa"), ("lxmert-tiny", "questions")}
    del content["studies"]["main"]["zip"]
    with pytest.raises(ConfigError, match=r"studies\.main\.task.*lxmert"):
        plan_file(tmp_path, content)


CHANGES: dict[str, dict[str, list[Any]]] = {
    "recipe": {
        "steps": [0, 1, 5],
        "batch_size": [12, 33],
        "tokens": [5120],
        "accumulate": [0, 2, 5],
        "warmup": [0.5, 1.0],
        "precision": ["bf16"],
        "zero": [1, 3],
        "compile": [True],
        "dropout": [0.0, 1.0],
        "optimizer": ["sgd", "lars", "adam"],
        "momentum": [0.8],
        "decay": ["multi_step", "cosine", "polynomal"],
        "milestones": [[1, 2], [2, 1], [9]],
        "lr_scales": [{}, {"fusion": 2.0}],
    },
    "overrides": {
        "hidden_size": [32, 65, 0],
        "num_attention_heads": [5, 8],
        "num_hidden_layers": [1, 3, True],
        "type_vocab_size": [1, 3, "two"],
        "initializer_range": [0.1, 1, -0.1],
    },
    "study": {
        "rewind": [3, 4],
        "rewind_schedule": ["remaining"],
        "controls": [["shuffle_across"], ["random_layerwise"], ["init:mine"]],
        "tickets": [["omp"], ["transfer:easy_vqa"]],
        "pruner": ["random"],
        "pool": ["encoder", "encoder-reached"],
    },
    "task": {
        "entry": [
            {"task": "vqa", "data": "/vqa", "options": {"blind": True}},
            {"task": "vqa", "data": "/vqa", "options": {"blind": 1}},
            RETRIEVAL | {"options": {"split": "test", "eval_images": 3}},
            RETRIEVAL | {"options": {"split": "train"}},
            PRETRAINING | {"options": {"objectives": "mlm:1"}},
            PRETRAINING | {"options": {"objectives": "mlm:0"}},
        ]
    },
}
"""What may differ from a sweep that is planned: section -> key -> values, some of which must not
be planned, alone or with others."""
ONE_CHANGE = [
    (section, key, value)
    for section, values in CHANGES.items()
    for key, allowed in values.items()
    for value in allowed
]


@seed(11)
@settings(max_examples=120, database=None)
@given(st.lists(st.sampled_from(ONE_CHANGE), max_size=4), st.sampled_from([1, 2]))
def test_every_planned_trial_passes_the_checks_of_a_worker(
    changes: list[tuple[str, str, Any]], workers: int
) -> None:
    drawn: dict[str, dict[str, Any]] = {section: {} for section in CHANGES}
    for section, key, value in changes:
        drawn[section][key] = value
    content = with_recipe(**{"steps": 4} | drawn["recipe"]) | {
        "models": {
            "mine": {"architecture": "uniter", "size": "tiny", "overrides": drawn["overrides"]}
        },
        "tasks": {"mine": drawn["task"].get("entry", {"task": "easy_vqa"})},
        "placement": {"workers": workers},
    }
    content["studies"]["main"] |= {"model": "mine", "task": "mine"} | drawn["study"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = plan_file(Path(folder), content)
        except ConfigError:
            return
    for trial in plan:
        if isinstance(trial.spec, TrainSpec):
            check_training(trial.spec, workers)
