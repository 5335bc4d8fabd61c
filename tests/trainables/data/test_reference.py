"""References to data: a path, and a scheme from outside that is its own fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.outside_data import TOY_SCHEME, installed
from tests.support.plugins import SOURCE
from trainables.data.fingerprint import fingerprint
from trainables.data.reference import DATA_SCHEMES, LocalData, RemoteData, data_reference
from trainables.errors import DataError


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed(TOY_SCHEME):
        yield


def test_a_path_is_the_fingerprint_of_the_files_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "read.txt").write_text("1")
    (tmp_path / "other.txt").write_text("2")
    reference = data_reference(str(tmp_path))
    assert reference == LocalData(tmp_path) == data_reference(tmp_path)
    assert reference.local_path(tmp_path / "cache") == tmp_path
    planned = reference.fingerprint(("read.txt",))
    assert planned == fingerprint(tmp_path, ("read.txt",))
    (tmp_path / "other.txt").write_text("3")
    reference.check_unchanged(planned, "data", ("read.txt",))
    with pytest.raises(DataError, match="this data has the fingerprint"):
        reference.check_unchanged("0" * 64, "data", ("read.txt",))


def test_a_revision_is_its_own_fingerprint_and_is_fetched_where_it_is_read(tmp_path: Path) -> None:
    reference = data_reference("toy://7@3")
    assert reference == RemoteData("toy", "7", "3")
    assert data_reference(str(reference)) == reference
    assert reference.fingerprint() == reference.fingerprint(("numbers.txt",))
    assert len({data_reference(f"toy://7@{n}").fingerprint() for n in range(5)}) == 5
    reference.check_unchanged(reference.fingerprint(), "data")
    folder = reference.local_path(tmp_path)
    assert (folder / "numbers.txt").read_text() == "777"
    assert folder.is_relative_to(tmp_path)
    assert data_reference("toy://7@4").local_path(tmp_path) != folder


def test_another_source_of_the_scheme_gives_other_data() -> None:
    reference = data_reference("toy://7@3")
    planned = reference.fingerprint()
    DATA_SCHEMES.add("toy", DATA_SCHEMES["toy"], SOURCE)
    with pytest.raises(DataError, match=r"toy://7@3: .* another version of the scheme toy"):
        reference.check_unchanged(planned, "data")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("toy://7", "names no revision that never changes"),
        ("toy://7@main", r"names no revision that never changes \(as `\[0-9\]\+`\)"),
        ("elsewhere://7@3", r"the scheme elsewhere is not known \(installed: toy\)"),
    ],
)
def test_what_names_no_fixed_content_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        data_reference(text)


def test_a_failed_fetch_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy://gone@1: cannot be fetched \(no such data set\)"):
        data_reference("toy://gone@1").local_path(tmp_path)
