"""What the memory of fingerprints may spare, and what it must not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.sweep.fingerprints import remembering
from trainables.data.fingerprint import fingerprint


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "questions.json").write_text("[1]")
    (folder / "answers.txt").write_text("yes")
    return folder


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "home" / "fingerprints.json"


def test_it_is_the_fingerprint_of_the_content(data: Path, memory: Path) -> None:
    file = data / "answers.txt"
    for _ in range(2):
        remembered = remembering(memory)
        assert remembered(data) == fingerprint(data)
        assert remembered(file) == fingerprint(file)


def test_what_looks_unchanged_is_not_read_again(data: Path, memory: Path) -> None:
    """Shown by a change that leaves sizes and times as they were."""
    before = remembering(memory)(data)
    file = data / "answers.txt"
    times = file.stat()
    file.write_text("no!")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(data) != before
    assert remembering(memory)(data) == before


@pytest.mark.parametrize("change", ["content", "new file", "lost file", "new name"])
def test_every_change_that_shows_is_noticed(data: Path, memory: Path, change: str) -> None:
    before = remembering(memory)(data)
    file = data / "answers.txt"
    match change:
        case "content":
            file.write_text("yes, and more")
        case "new file":
            (data / "train" / "more.json").write_text("[]")
        case "lost file":
            file.unlink()
        case "new name":
            file.rename(data / "replies.txt")
    after = remembering(memory)(data)
    assert after == fingerprint(data)
    assert after != before


@pytest.mark.parametrize("junk", ["", "{", "[]", "null", '{"PATH": "junk"}', '{"PATH": {}}'])
def test_a_damaged_memory_costs_time_only(data: Path, memory: Path, junk: str) -> None:
    memory.parent.mkdir()
    memory.write_text(junk.replace("PATH", str(data)))
    assert remembering(memory)(data) == fingerprint(data)
    assert str(data) in json.loads(memory.read_text())


def test_a_memory_that_cannot_be_written_costs_time_only(data: Path) -> None:
    nowhere = data / "answers.txt" / "home" / "fingerprints.json"
    assert remembering(nowhere)(data) == fingerprint(data)


def test_a_link_to_nothing_is_no_content(data: Path, memory: Path) -> None:
    before = remembering(memory)(data)
    (data / "dangling").symlink_to(data / "not there")
    assert remembering(memory)(data) == before
