"""The fingerprint cache skips unchanged files and notices every change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.sweep.fingerprints import caching_fingerprint
from trainables.data.fingerprint import fingerprint


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "questions.json").write_text("[1]")
    (folder / "answers.txt").write_text("yes")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "fingerprints.json"


def test_a_cached_fingerprint_equals_the_fingerprint_of_the_content(
    data: Path, cache: Path
) -> None:
    file = data / "answers.txt"
    for _ in range(2):
        cached = caching_fingerprint(cache)
        assert cached(data) == fingerprint(data)
        assert cached(file) == fingerprint(file)


def test_files_with_unchanged_sizes_and_times_are_not_read_again(data: Path, cache: Path) -> None:
    """The test changes content but keeps size and time."""
    before = caching_fingerprint(cache)(data)
    file = data / "answers.txt"
    times = file.stat()
    file.write_text("no!")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(data) != before
    assert caching_fingerprint(cache)(data) == before


@pytest.mark.parametrize("change", ["content", "new file", "deleted file", "new name"])
def test_every_visible_change_is_noticed(data: Path, cache: Path, change: str) -> None:
    before = caching_fingerprint(cache)(data)
    file = data / "answers.txt"
    match change:
        case "content":
            file.write_text("yes, and more")
        case "new file":
            (data / "train" / "more.json").write_text("[]")
        case "deleted file":
            file.unlink()
        case "new name":
            file.rename(data / "replies.txt")
    after = caching_fingerprint(cache)(data)
    assert after == fingerprint(data)
    assert after != before


@pytest.mark.parametrize("junk", ["", "{", "[]", "null", '{"PATH": "junk"}', '{"PATH": {}}'])
def test_a_damaged_cache_file_is_replaced(data: Path, cache: Path, junk: str) -> None:
    cache.parent.mkdir()
    cache.write_text(junk.replace("PATH", str(data)))
    assert caching_fingerprint(cache)(data) == fingerprint(data)
    assert str(data) in json.loads(cache.read_text())


def test_an_unwritable_cache_is_ignored(data: Path) -> None:
    unwritable = data / "answers.txt" / "home" / "fingerprints.json"
    assert caching_fingerprint(unwritable)(data) == fingerprint(data)


def test_a_dangling_link_does_not_count_as_content(data: Path, cache: Path) -> None:
    before = caching_fingerprint(cache)(data)
    (data / "dangling").symlink_to(data / "not there")
    assert caching_fingerprint(cache)(data) == before
