"""Errors in published files are reported in one line, with the file and the record."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import published_files
from tests.support.published_files import LAYOUTS, UNITER_META, read_task_data
from trainables.data.formats.json_stream import read_json, write_json, write_list
from trainables.data.formats.uniter.lmdb import write_text_db
from trainables.data.formats.vilt.arrow import write_table
from trainables.errors import DataError, repeats


def change(root: Path, task: str, **fields: Any) -> None:
    """Rewrite the first text database of a task with other fields in its fifth record."""
    files = LAYOUTS[task, "uniter"].train[0]
    records = published_files.text_records(task, files)
    key = list(records)[4]
    records[key] |= fields
    records[key] = {name: value for name, value in records[key].items() if value is not None}
    folder = root / files.texts
    referring = {
        name: read_json(folder / f"{name}.json", list, "")
        for name in ("refs", "annotations", "categories", "images")
        if task == "refcoco"
    }
    folder.rename(folder.with_name("old"))
    write_text_db(folder, records.items(), meta=UNITER_META, refcoco_files=referring or None)


@pytest.mark.parametrize(
    ("task", "fields", "what"),
    [
        ("vqa", {"target": None}, "has no target"),
        (
            "vqa",
            {"target": {"labels": [9], "scores": [1.0]}},
            "labels: 9 is not an integer from 0 to 3",
        ),
        ("vqa", {"target": {"labels": [1], "scores": []}}, "scores: 0 values, not 1"),
        ("vqa", {"input_ids": [110, 300]}, "texts: 300 is not an integer from 0 to 299"),
        ("vqa", {"input_ids": [-1]}, "texts: -1 is not an integer from 0 to 299"),
        ("vqa", {"input_ids": "what"}, "not a list of token ids"),
        ("vqa", {"img_fname": "gone.npz"}, "holds no image gone.npz"),
        ("nlvr2", {"target": 2}, "labels: 2 is not an integer from 0 to 1"),
        ("nlvr2", {"img_fname": ["a.npz"]}, r"img_fname = \['a.npz'\], not 2 file names"),
        ("vcr", {"qa_target": -1}, "has qa_target = -1, not 0 to 3"),
        ("vcr", {"input_ids_as": [[110]] * 3}, "input_ids_as that are not 4 lists"),
        ("vcr", {"input_ids": [381]}, "texts: 381 is not an integer from 0 to 380"),
        ("refcoco", {"image_id": 77}, "the image 77, which images.json does not list"),
        ("refcoco", {"ann_id": 77}, "the object 77, which its image does not list"),
        ("refcoco", {"bbox": [1, 2, 3]}, "scores: 5 values, not 6"),
    ],
)
def test_a_wrong_record_is_reported_in_one_line(
    tmp_path: Path, task: str, fields: dict[str, Any], what: str
) -> None:
    published_files.write_task(tmp_path, task, "uniter")
    change(tmp_path, task, **fields)
    with pytest.raises(DataError, match=rf"{tmp_path}.*: .*{what}.*; download") as caught:
        read_task_data(tmp_path, task, "uniter")
    assert "\n" not in str(caught.value)


def test_databases_of_two_vocabularies_are_refused(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "vqa", "uniter")
    write_json(
        tmp_path / "uniter/txt_db/vqa_vg.db/meta.json", UNITER_META | {"v_range": [106, 301]}
    )
    with pytest.raises(DataError, match=r"vqa_vg.db/meta.json: was built with another vocabulary"):
        read_task_data(tmp_path, "vqa", "uniter")


def test_the_annotated_boxes_must_match_the_targets(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "refcoco", "uniter")
    file = tmp_path / "uniter/txt_db/refcoco+_train.db/images.json"
    images = json.loads(file.read_text())
    images[2]["ann_ids"].append(1)
    write_json(file, images)
    with pytest.raises(DataError, match=r"000002.npz has 3 regions, images.json lists 4; give"):
        read_task_data(tmp_path, "refcoco", "uniter")


@pytest.mark.parametrize(
    ("task", "fields", "what"),
    [
        ("vqa", {"label": {"a unicorn": 1}}, "has the answer 'a unicorn', which the file"),
        ("vqa", {"label": None}, "entry 1 has no label"),
        ("vqa", {"label": "yes"}, "has label = 'yes', not answers with scores"),
        ("vqa", {"sent": None}, "entry 1 has no sent"),
        ("vqa", {"img_id": "gone"}, "holds no image gone, which an example names"),
        ("nlvr2", {"label": 2}, "labels: 2 is not an integer from 0 to 1"),
    ],
)
def test_a_wrong_entry_is_reported_in_one_line(
    tmp_path: Path, task: str, fields: dict[str, Any], what: str
) -> None:
    published_files.write_task(tmp_path, task, "lxmert")
    entries = list(published_files.lxmert_entries(task))
    entries[1] |= fields
    write_list(tmp_path / LAYOUTS[task, "lxmert"].train[0].texts, entries)
    with pytest.raises(DataError, match=rf"{tmp_path}.*: .*{what}.*; ") as caught:
        read_task_data(tmp_path, task, "lxmert")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "fields", "what"),
    [
        ("vqa", {"image": b"no picture"}, "row 1, image: cannot be decoded"),
        ("vqa", {"answer_labels": [[0], [1]]}, "row 1 does not have one entry per text"),
        ("vqa", {"answer_scores": [[], [1.0], [1.0]]}, "record 3: scores: 0 values, not 1"),
        ("nlvr2", {"answers": ["True", "Maybe"]}, "row 1 has the answer 'Maybe'"),
        ("nlvr2", {"image_1": b""}, "row 1, image_1: cannot be decoded"),
        ("snli_ve", {"labels": [0, 3]}, "labels: 3 is not an integer from 0 to 2"),
        ("snli_ve", {"sentences": [["a"], ["b"]]}, "has 1 sentences where premise and"),
        ("retrieval", {"caption": None}, "row 1 does not have one entry per text in caption"),
    ],
)
def test_a_wrong_row_is_reported_in_one_line(
    tmp_path: Path, task: str, fields: dict[str, Any], what: str
) -> None:
    published_files.write_task(tmp_path, task, "vilt")
    kind, make = published_files.ROWS[task]
    records = list(make("train"))
    records[1] |= fields
    write_table(tmp_path / LAYOUTS[task, "vilt"].train[0].texts, kind, records)
    with pytest.raises(DataError, match=rf"{tmp_path}.*: .*{what}.*; .*write this") as caught:
        read_task_data(tmp_path, task, "vilt")
    assert "\n" not in str(caught.value)
    assert repeats(caught.value), "an image that cannot be decoded never can"


def test_a_vocabulary_without_berts_special_tokens_is_refused(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "nlvr2", "lxmert")
    (tmp_path / "lxmert/vocab.txt").write_text("[PAD]\n[CLS]\nball\n")
    with pytest.raises(DataError, match=r"vocab.txt: has no word \[SEP\] and no \[MASK\]"):
        read_task_data(tmp_path, "nlvr2", "lxmert")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("images.json", "[1]", "entry 0 has no id"),
        ("images.json", '[{"id": 0, "width": 4, "height": 3}]', "entry 0 has no ann_ids"),
        ("refs.json", "[{}]", "entry 0 has no sent_ids"),
        ("id2len.json", '{"0": "x"}', "the length 'x' for 0, not a number of tokens"),
    ],
)
def test_a_wrong_entry_beside_a_database_is_reported_in_one_line(
    tmp_path: Path, name: str, content: str, what: str
) -> None:
    published_files.write_task(tmp_path, "refcoco", "uniter")
    file = tmp_path / "uniter/txt_db/refcoco+_train.db" / name
    file.write_text(content)
    with pytest.raises(DataError, match=f"{re.escape(str(file))}: .*{what}; download") as caught:
        read_task_data(tmp_path, "refcoco", "uniter")
    assert "\n" not in str(caught.value)


def test_a_damaged_page_of_a_database_names_the_file_and_the_record(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "vqa", "uniter")
    file = tmp_path / "uniter/img_db/coco_train2014/feat_th0.2_max100_min10/data.mdb"
    content = bytearray(file.read_bytes())
    page = os.sysconf("SC_PAGE_SIZE")
    for start in range(2 * page, len(content), page):  # after the two pages with the root
        content[start + 10 : start + 12] = bytes(2)  # the type of the page
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}: the record .* cannot be found") as caught:
        read_task_data(tmp_path, "vqa", "uniter")
    assert repeats(caught.value)
