"""Data of a sweep: formats, remote references and augmentations are chosen while planning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.expand.studies import expand_sweep
from orchestrator.sweep.config import Sweep
from orchestrator.sweep.resolve import Resolver
from tests.support.outside_data import INVERT, LINES, TOY_SCHEME, installed
from tests.support.sweeps import plan_of, sweep_document
from trainables.data.reference import data_reference
from trainables.spec import TrainSpec


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed(LINES, TOY_SCHEME, INVERT):
        yield


def document(
    model: str = "uniter-tiny", recipe: dict[str, Any] | None = None, **task: Any
) -> dict[str, Any]:
    content = sweep_document(model=model, task="mine", schedule={"levels": 1, "rate": 0.5})
    content["recipes"]["short"] = {"steps": 10, **(recipe or {})}
    return content | {"tasks": {"mine": {"task": "vqa", "data": "/data/vqa", **task}}}


def runs(content: dict[str, Any]) -> dict[str, TrainSpec]:
    trials = plan_of(content).trials
    return {key: trial.spec for key, trial in trials.items() if isinstance(trial.spec, TrainSpec)}


def test_naming_the_default_format_changes_no_key() -> None:
    assert runs(document()).keys() == runs(document(format="uniter")).keys()


def test_another_format_is_part_of_the_keys() -> None:
    usual, other = runs(document()), runs(document(format="lines"))
    assert not usual.keys() & other.keys()
    for spec in other.values():
        assert spec.task.format == "lines"
        assert dict(spec.sources) == {"sweepstakes.formats/lines": LINES.sha256}
    assert all(spec.task.format == "lxmert" for spec in runs(document(format="lxmert")).values())


def test_a_remote_reference_is_planned_without_reading_it() -> None:
    content = document(data="toy://7@3")
    sweep = Sweep.model_validate(content)

    def unread(path: Path, patterns: tuple[str, ...] = ()) -> str:
        raise AssertionError(path)

    resolver = Resolver(sweep, unread)
    expand_sweep(resolver)
    expected = data_reference("toy://7@3").fingerprint()
    assert resolver.locations() == {expected: "toy://7@3"}
    assert {spec.task.data for spec in runs(content).values()} == {expected}


def test_an_augmentation_from_outside_is_part_of_the_keys() -> None:
    vilt = {"model": "vilt-tiny"}
    plain = runs(document(**vilt, recipe={"augmentation": "none"}))
    assert plain.keys() == runs(document(**vilt)).keys()
    inverted = runs(document(**vilt, recipe={"augmentation": "invert"}))
    assert not plain.keys() & inverted.keys()
    for spec in inverted.values():
        assert dict(spec.sources) == {"sweepstakes.augmentations/invert": INVERT.sha256}
    cropped = runs(document(**vilt, recipe={"augmentation": "crop_flip"}))
    assert all(spec.sources == () for spec in cropped.values())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            document("vilt-tiny", format="lines"),
            r"tasks\.mine.*lines holds regions, vilt reads pix",
        ),
        (document(format="vilt"), r"tasks\.mine.*format vilt holds pixels, uniter reads regions"),
        (document(format="linse"), r"tasks\.mine.*no data in the format linse; formats with: un"),
        (
            document(task="easy_vqa", format="uniter"),
            r"tasks\.mine\.format: .*easy_vqa reads files of its own, not the format uniter",
        ),
        (document(data="toy://7"), r"tasks\.mine\.data: toy://7: names no revision"),
        (document(data="hf://a@b"), r"tasks\.mine\.data: hf://a@b: the scheme hf is not known"),
        (
            document(recipe={"augmentation": "crop_flip"}),
            r"recipes\.short\.augmentation = 'crop_flip' changes pixels, the model reads regions",
        ),
        (
            document(recipe={"augmentation": "crop"}),
            r"recipes\.short\.augmentation = 'crop' is not known; did you mean `crop_flip`",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        plan_of(content)
    assert "\n" not in str(caught.value)
