"""Reading JSON entry by entry gives the same as reading the whole file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies

from trainables.data.formats import json_stream
from trainables.data.formats.json_stream import read_json, read_list, read_pairs, write_list
from trainables.errors import DataError

values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False)
    | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(entries=strategies.lists(values, max_size=5), indent=strategies.sampled_from([None, 1]))
def test_lists_are_read_with_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], indent: int | None
) -> None:
    file = tmp_path_factory.mktemp("json") / "list.json"
    file.write_text(json.dumps(entries, indent=indent))
    for chunk in (1, 7, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_stream, "_CHUNK", chunk)
            assert list(read_list(file, "")) == entries


@given(entries=strategies.dictionaries(strategies.text(), values, max_size=5))
def test_mappings_are_read_with_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("json") / "pairs.json"
    file.write_text(json.dumps(entries, indent=2))
    for chunk in (1, 5, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_stream, "_CHUNK", chunk)
            assert list(read_pairs(file, "")) == list(entries.items())


def test_entries_are_written_as_a_plain_list(tmp_path: Path) -> None:
    entries = [{"a": 1}, [2], "é"]
    assert write_list(tmp_path / "x" / "list.json", iter(entries)) == 3
    assert json.loads((tmp_path / "x" / "list.json").read_text()) == entries
    assert write_list(tmp_path / "none.json", []) == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "its end where one of '\\['"),
        ('{"a": 1}', "'{' where one of '\\['"),
        ('[{"a": 1}, {"a": 2', "after 1 entries"),
        ("[1, 2", "its end where one of ',\\]' is expected, after 2 entries"),
        ("[1 2]", "'2' where one of"),
        ("[1] [2]", "extra data after its end"),
    ],
)
def test_damage_is_reported_with_its_position(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(DataError, match=f"list.json: cannot be read \\(.*{what}.*\\); again$"):
        list(read_list(file, "again"))


def test_files_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json", list, "") == [1]
    with pytest.raises(DataError, match="holds a list, not a dict; again"):
        read_json(tmp_path / "a.json", dict, "again")
    with pytest.raises(DataError, match=r"b.json: no such file; again"):
        read_json(tmp_path / "b.json", dict, "again")
