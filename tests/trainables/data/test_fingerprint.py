from __future__ import annotations

from pathlib import Path

import pytest

from trainables.data.fingerprint import fingerprint
from trainables.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    (path / "images").mkdir(parents=True)
    (path / "images" / "1.png").write_bytes(b"one")
    (path / "questions.json").write_bytes(b"[]")
    return path


def test_the_fingerprint_never_changes(folder: Path) -> None:
    # Trial keys contain fingerprints: another value would orphan every committed trial.
    golden = "9826b3c12567766980a2375c33d5485d6d3a37cfe99886bac0fdef177531660c"
    assert fingerprint(folder) == golden
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # sha256(b"one")
    assert fingerprint(folder / "images" / "1.png") == digest


def test_the_path_and_hidden_files_do_not_count(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    moved = folder.rename(tmp_path / "moved")
    assert fingerprint(moved) == before


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_every_change_counts(folder: Path, change: str) -> None:
    before = fingerprint(folder)
    image = folder / "images" / "1.png"
    if change == "content":
        image.write_bytes(b"two")
    elif change == "name":
        image.rename(folder / "images" / "2.png")
    else:
        (folder / "more").write_bytes(b"")
    assert fingerprint(folder) != before


def test_a_missing_path_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; check the path") as caught:
        fingerprint(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "\n" not in str(caught.value)
