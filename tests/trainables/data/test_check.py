"""`data check`: what is whole is counted, what is not is told in one line each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import published_files as published
from tests.support.published_files import EXAMPLES, IMAGES
from trainables.data.check import Count, check
from trainables.data.formats.json_stream import write_json
from trainables.data.formats.lxmert.tsv import write_tsv
from trainables.data.formats.uniter.lmdb import Boxes, write_image_db, write_text_db
from trainables.data.schema.layouts import LAYOUTS, files_of, layout
from trainables.errors import DataError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks in all formats; not to be changed."""
    root = tmp_path_factory.mktemp("whole")
    for task, form in LAYOUTS:
        published.write(root, task, form)
    return root


def test_all_that_is_there_is_counted(whole: Path) -> None:
    found = check(whole)
    assert found.findings == ()
    counts = {(count.task, count.format, count.split): count for count in found.counts}
    assert {cell[:2] for cell in counts} == set(LAYOUTS)
    assert counts["vqa", "uniter", "train"] == Count(
        task="vqa",
        format="uniter",
        split="train",
        examples=3 * EXAMPLES,
        images=3 * IMAGES,
        longest_text=9,
        longest_image=16,
    )
    assert counts["vqa", "vilt", "held out"].longest_image == 0
    assert counts["refcoco", "uniter", "train"].longest_image == 3
    assert ("retrieval", "uniter", "val") in counts
    assert counts["pretraining", "uniter", "train coco"].examples == 2 * EXAMPLES


def test_progress_is_told_per_split(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.data.check._TELL_EVERY", 1)
    told: dict[str, list[tuple[int, int | None]]] = {}
    check(whole, lambda what, done, total: told.setdefault(what, []).append((done, total)))
    assert [done for done, _ in told["nlvr2 (vilt), train: examples"]] == list(range(1, 11))
    assert told["nlvr2 (vilt), train: images"][-1] == (10, 10)


def test_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no published data; .* folders lxmert, uniter, vilt"
    ):
        check(tmp_path)


def test_a_part_of_a_task_is_a_finding(tmp_path: Path) -> None:
    published.write(tmp_path, "nlvr2", "lxmert")
    published.write(tmp_path, "retrieval", "vilt")
    (tmp_path / "lxmert/nlvr2/valid.json").unlink()
    (tmp_path / "vilt/f30k_caption_karpathy_val.arrow").unlink()
    found = check(tmp_path)
    assert found.counts == ()
    first, second = sorted(found.findings)
    assert first.startswith(f"{tmp_path}/lxmert/nlvr2/valid.json: no such file, but other files")
    assert second.startswith(f"{tmp_path}/vilt/f30k_caption_karpathy_val.arrow: no such file")


def test_retrieval_is_checked_on_val_and_on_test(tmp_path: Path) -> None:
    published.write(tmp_path, "retrieval", "uniter")
    published._uniter(tmp_path / "x", "retrieval", layout("retrieval", "uniter", {"split": "test"}))
    name = "uniter/txt_db/itm_flickr30k_test.db"
    (tmp_path / "x" / name).rename(tmp_path / name)
    assert [count.split for count in check(tmp_path).counts] == ["train", "val", "test"]


def regions_again(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """The image database with another first image."""
    images = [(name, published.regions(n, 12)) for n, name in enumerate(_names(folder))]
    change(images[0][1])
    for file in [*folder.rglob("*.*")]:
        if file.is_file():
            file.unlink()
    folder.rename(folder.with_name("old"))
    write_image_db(folder, images, boxes=Boxes())


def _names(folder: Path) -> list[str]:
    return published._region_names(str(folder))


def no_number(fields: dict[str, np.ndarray]) -> None:
    fields["features"][3, 1] = np.nan


def outside(fields: dict[str, np.ndarray]) -> None:
    fields["norm_bb"][2, 3] = 1.2


def turned(fields: dict[str, np.ndarray]) -> None:
    fields["norm_bb"][2, :4] = [0.6, 0.1, 0.2, 0.3]


def none_left(fields: dict[str, np.ndarray]) -> None:
    for name, array in fields.items():
        fields[name] = array[:0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (no_number, "has features or boxes that are no numbers"),
        (outside, "has a box from .* to 1.2 of its image's side"),
        (turned, "has a box whose second corner comes first"),
        (none_left, "has no regions"),
    ],
)
def test_regions_that_no_detector_gave(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None], what: str
) -> None:
    published.write(tmp_path, "snli_ve", "uniter")
    regions_again(tmp_path / "uniter/img_db/flickr30k", change)
    (finding,) = check(tmp_path).findings
    assert re.match(f"{tmp_path}/uniter/img_db/flickr30k: flickr30k_0.npz {what}; ", finding)


def test_boxes_of_a_tsv_outside_the_image(tmp_path: Path) -> None:
    published.write(tmp_path, "nlvr2", "lxmert")
    images = [published.tsv_image(n) for n in range(IMAGES)]
    images[2]["img_w"] = 300
    write_tsv(tmp_path / "lxmert/nlvr2_imgfeat/valid_obj36.tsv", images)
    (finding,) = check(tmp_path).findings
    assert "valid_obj36.tsv: image_2 has a box from" in finding


def test_side_files_that_say_something_else(tmp_path: Path) -> None:
    published.write(tmp_path, "vqa", "uniter")
    published.write(tmp_path, "vqa", "lxmert")
    folder = tmp_path / "uniter/txt_db"
    for name, file in (("vqa_train.db", "txt2img.json"), ("vqa_vg.db", "id2len.json")):
        found = json.loads((folder / name / file).read_text())
        key = list(found)[3]
        found[key] = "other.npz" if file == "txt2img.json" else 2
        write_json(folder / name / file, found)
    (folder / "vqa_devval.db/txt2img.json").unlink()
    other = tmp_path / "lxmert/vqa/trainval_label2ans.json"
    write_json(other, json.loads(other.read_text())[::-1])
    whats = (
        "vqa_train.db/txt2img.json: names another image for",
        "vqa_vg.db/id2len.json: says",
        "vqa_devval.db/txt2img.json: no such file",
        "trainval_label2ans.json: does not list the answers",
    )
    findings = check(tmp_path).findings
    assert len(findings) == len(whats)
    for what, finding in zip(whats, findings, strict=True):
        assert what in finding


def test_damage_of_every_kind_is_one_line_each(tmp_path: Path) -> None:
    for task, form in LAYOUTS:
        published.write(tmp_path, task, form)
    os.truncate(tmp_path / "uniter/img_db/flickr30k" / Boxes().environment / "data.mdb", 5000)
    os.truncate(tmp_path / "vilt/snli_train.arrow", 700)
    (tmp_path / "lxmert/gqa/trainval_ans2label.json").write_text('{"yes": 3}')
    (tmp_path / "uniter/txt_db/nlvr2_dev.db/id2len.json").write_text('{"1": ')
    part = LAYOUTS["gqa", "uniter"].train[0]
    records = published.text_records("gqa", part)
    next(iter(records.values()))["img_fname"] = "gone.npz"
    (tmp_path / part.texts).rename(tmp_path / "old")
    write_text_db(tmp_path / part.texts, records.items(), meta=published.META)
    found = check(tmp_path)
    expected = {
        "uniter/img_db/flickr30k": "it is cut short",
        "vilt/snli_train.arrow": "no whole Arrow file",
        "lxmert/gqa/trainval_ans2label.json": "labels are not 0 to 0",
        "uniter/txt_db/nlvr2_dev.db/id2len.json": "cannot be read",
        "uniter/img_db/vg": "holds no image gone.npz",
    }
    for file, what in expected.items():
        mine = [f for f in found.findings if f.startswith(f"{tmp_path}/{file}")]
        assert mine
        assert what in mine[0]
    assert len(found.findings) == len(expected)
    assert not any("\n" in finding for finding in found.findings)
    # What is whole is counted all the same.
    assert ("vcr", "train") in {(count.task, count.split) for count in found.counts}


def test_every_published_name_is_in_a_folder_of_its_format() -> None:
    for task, form in LAYOUTS:
        assert all(path.startswith(f"{form}/") for path in files_of(task, form, {}))
