"""Every error in a sweep file is one line that names the key and says what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError, MissingFile
from orchestrator.expand.studies import expand_sweep
from orchestrator.sweep.config import Schedule, Sweep
from orchestrator.sweep.fingerprints import caching_fingerprint
from orchestrator.sweep.resolve import Resolver
from tests.support.sweeps import STUDY, fake_fingerprint, sweep_document, write_sweep

REMOTE = {"url": "s3://bucket"}


def load_and_plan(path: Path) -> None:
    expand_sweep(Resolver(Sweep.from_file(path), fake_fingerprint))


def with_value(path: str, value: Any) -> dict[str, Any]:
    content = sweep_document()
    *parents, last = path.split(".")
    parent = content
    for part in parents:
        parent = parent.setdefault(part, {})
    parent[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "where", "advice"),
    [
        ("studies.main.sede", [0], "studies.main.sede", "did you mean `seed`?"),
        ("studys", {}, "studys", "did you mean `studies`?"),
        ("studies.main.seed", -1, "studies.main.seed = -1", "use 0 or more"),
        ("studies.main.seed", [0, "x"], "studies.main.seed[1] = 'x'", "integer"),
        ("studies.main.schedule", {"levels": -1}, "schedule.levels = -1", "use 0 or more"),
        ("studies.main.schedule", [{"levles": 1}], "schedule[0].levles", "did you mean `levels`?"),
        ("studies.main.schedule", {"rate": 1.0}, "schedule.rate = 1.0", "less than 1"),
        ("studies.main.schedule", {"kind": "cubic"}, "schedule.kind", "'linear' or 'geometric'"),
        ("studies.main.schedule", {"rate": 0.3, "levels": 4}, "prune everything", "use 3 or less"),
        ("studies.main.schedule", {"rate": 1e-3, "levels": 1000}, "levels = 1000", "use 999 or"),
        ("studies.main.rewind", 11, "studies.main.rewind = 11", "use 10 or less"),
        ("studies.main.score_levels", [5], "studies.main.score_levels = 5", "use 4 or less"),
        ("studies.main.score_levels", {"easy_vqua": [1]}, "score_levels: 'easy_vqa'", "for each"),
        (
            "studies.main.controls",
            ["init:ofa"],
            "controls = 'ofa' is not known",
            "use one of uniter, ",
        ),
        ("studies.main.controls", ["init:uniter"], "init:uniter has another", "weights only"),
        ("studies.main.controls", ["randm"], "main.controls = 'randm'", "did you mean `random`?"),
        ("studies.main.ticket_recipe", "shrt", "ticket_recipe = 'shrt'", "did you mean `short`?"),
        ("studies.main.zip", [["seed", "rewind"], ["seed"]], "zip", "each axis once"),
        ("studies.main.model", "unitr-tiny", "studies.main.model", "did you mean `uniter-tiny`?"),
        ("studies.main.model", "uniter-lrge", "studies.main.model", "did you mean `uniter-large`?"),
        ("studies.main.task", "easyvqa", "studies.main.task", "did you mean `easy_vqa`?"),
        ("studies.main.recipe", "shrt", "studies.main.recipe = 'shrt'", "did you mean `short`?"),
        ("studies.main.recipe", "zzz", "studies.main.recipe = 'zzz'", "use one of default, short"),
        ("studies.main.pool", "everything", "studies.main.pool", "encoder+pooler"),
        ("studies.main.tickets", ["impp"], "studies.main.tickets = 'impp'", "did you mean `imp`?"),
        ("studies.main.tickets", ["transfer:ocr"], "main.tickets = 'ocr'", "did you mean `vcr`?"),
        ("studies.main.pruner", "magnitud", "studies.main.pruner", "did you mean `magnitude`?"),
        ("recipes.short.step", 3, "recipes.short.step", "did you mean `steps`?"),
        ("recipes.short.steps", 0, "recipes.short.steps = 0", "use 1 or more"),
        ("recipes.short.lr", "fast", "recipes.short.lr = 'fast'", "number"),
        ("recipes.short.precision", "bf17", "short.precision = 'bf17'", "or 'bf16'"),
        ("recipes.short.accumulate", 3, "recipes.short.accumulate = 3", "use a divisor"),
        ("placement.store", {"url": "gs://b"}, "placement.store.url = 'gs://b'", "s3://"),
        ("placement.tracking", "htp://x", "placement.tracking = 'htp://x'", "such as http://"),
        ("placement.slots", 0, "placement.slots = 0", "use 1 or more"),
        ("name", "A sweep", "name = 'A sweep'", "must match"),
        ("studies", {}, "studies", "name a study"),
        ("placement", {"max_failures": 0}, "placement.max_failures = 0", "use 1 or more"),
        ("studies.interesting", STUDY | {"seed": -1}, "studies.interesting.seed = -1", "0 or more"),
        ("studies.Main", STUDY | {"seed": -1}, "studies.Main.seed = -1", "use 0 or more"),
        ("studies.placement", STUDY | {"sede": 1}, "studies.placement.sede", "mean `seed`?"),
        ("models.int", {"size": "tiny"}, "models.int: has neither of", "`module`; give one"),
        ("tasks.int", {}, "tasks.int: has neither of `task`", "`module`; give one"),
        ("pruners.int", {}, "pruners.int.module is missing", "add it"),
        ("tasks", {5: {"task": "vqa"}}, "tasks[5] = 5", "string"),
        ("studies.main.seed", 10**20, "studies.main.seed = 1000", "use 9223372036854775807 or"),
        ("placement.cpus", 10**400, "placement.cpus = 1000", "use 9223372036854775807 or less"),
        ("placement.gpus", math.nan, "placement.gpus = nan", "finite number"),
        ("placement.checkpoint_every_s", math.inf, "checkpoint_every_s = inf", "finite number"),
        ("recipes.short.lr", math.inf, "recipes.short.lr = inf", "finite number"),
        ("placement.cluster", "~nosuchuser/x", "cluster = '~nosuchuser/x'", "must name a user"),
        ("placement.store", REMOTE | {"region": "x y"}, "store.region = 'x y'", "must match"),
        ("placement.store", {"url": "s3://b-"}, "store.url = 's3://b-'", "3 to 63 characters"),
        ("placement.store", {"url": "s3://ab"}, "store.url = 's3://ab'", "3 to 63 characters"),
    ],
)
def test_one_line_names_the_key_and_says_what_to_do(
    tmp_path: Path, key: str, value: Any, where: str, advice: str
) -> None:
    path = write_sweep(tmp_path, with_value(key, value))
    with pytest.raises(ConfigError) as caught:
        load_and_plan(path)
    message = str(caught.value)
    assert where in message
    assert advice in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("placement.tracking", "http://user:SECRET@host"),
        ("placement.tracking", f"http://user:SECRET{'T' * 60}@{'h' * 60}/mlflow"),
        ("placement.tracking", "http://user:SEC/RET@host"),
        ("placement.store", REMOTE | {"endpoint": "http://user:SECRET@h:1"}),
        ("placement.store", "http://user:SECRET@h:1"),
        ("placement.slots", ["http://user:SECRET@h:1"]),
    ],
)
def test_errors_never_contain_a_password(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Sweep.from_file(write_sweep(tmp_path, with_value(key, value)))
    assert key in str(caught.value)
    assert "SEC" not in str(caught.value)


def test_zip_needs_lists_of_equal_length(tmp_path: Path) -> None:
    content = sweep_document(seed=[0, 1], rewind=[0, 1, 2], zip=[["seed", "rewind"]])
    with pytest.raises(ConfigError, match=r"studies\.main\.zip: seed has 2, rewind has 3"):
        Sweep.from_file(write_sweep(tmp_path, content))


def test_a_missing_sweep_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"nowhere\.yaml"):
        Sweep.from_file(tmp_path / "nowhere.yaml")


def test_missing_data_is_named_with_its_key(tmp_path: Path) -> None:
    content = sweep_document(task="mine") | {
        "tasks": {"mine": {"task": "easy_vqa", "data": "/no/data"}}
    }
    sweep = Sweep.from_file(write_sweep(tmp_path, content))
    with pytest.raises(MissingFile, match=r"tasks\.mine\.data = /no/data"):
        expand_sweep(Resolver(sweep, caching_fingerprint(tmp_path / "cache.json")))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [", "sweep.yaml:"),
        ("- 1\n- 2\n", "holds no keys"),
        ("name: a\nname: b\nstudies: {}\n", "given twice"),
        ("name: !!python/object/apply:os.getcwd []\nstudies: {}\n", "could not determine"),
    ],
)
def test_invalid_yaml_gives_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Sweep.from_file(write_sweep(tmp_path, text))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_in_exponent_notation_need_no_decimal_point(tmp_path: Path) -> None:
    text = "name: a\nrecipes: {fast: {lr: 2e-3}}\nstudies: {}\n"
    assert Sweep.from_file(write_sweep(tmp_path, text)).recipe_changes("fast") == {"lr": 0.002}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(kind="linear", rate=0.1, levels=9), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        # CV-LTH, Table 2: 20, 36, 48.80, 59.04, 67.23, 73.79 %.
        (
            Schedule(kind="geometric", rate=0.2, levels=9),
            [0.2, 0.36, 0.488, 0.5904, 0.67232, 0.737856],
        ),
    ],
)
def test_schedules_match_the_levels_in_the_papers(
    schedule: Schedule, expected: list[float]
) -> None:
    assert [schedule.sparsity(level) for level in range(1, 7)] == expected
