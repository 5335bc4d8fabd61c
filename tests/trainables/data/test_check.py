"""`data check` counts intact splits and reports each problem in one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import published_files
from tests.support.published_files import LAYOUTS, NUM_EXAMPLES, NUM_IMAGES
from trainables.data.check import SplitCount, check_folder
from trainables.data.formats import resolve_layout, task_files
from trainables.data.formats.json_stream import write_json
from trainables.data.formats.lxmert.tsv import write_tsv
from trainables.data.formats.uniter.lmdb import BoxRule, write_image_db, write_text_db
from trainables.errors import DataError


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks in all formats; tests must not change it."""
    root = tmp_path_factory.mktemp("intact")
    for task, file_format in LAYOUTS:
        published_files.write_task(root, task, file_format)
    return root


def test_all_splits_are_counted(intact: Path) -> None:
    result = check_folder(intact)
    assert result.findings == ()
    counts = {(count.task, count.format, count.split): count for count in result.counts}
    assert {cell[:2] for cell in counts} == set(LAYOUTS)
    assert counts["vqa", "uniter", "train"] == SplitCount(
        task="vqa",
        format="uniter",
        split="train",
        examples=3 * NUM_EXAMPLES,
        images=3 * NUM_IMAGES,
        longest_text=9,
        longest_image=16,
    )
    assert counts["vqa", "vilt", "held out"].longest_image == 0
    assert counts["refcoco", "uniter", "train"].longest_image == 3
    assert ("retrieval", "uniter", "val") in counts
    assert counts["pretraining", "uniter", "train coco"].examples == 2 * NUM_EXAMPLES


def test_progress_is_reported_per_split(intact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.data.check._REPORT_EVERY", 1)
    reports: dict[str, list[tuple[int, int | None]]] = {}

    def progress(what: str, done: int, total: int | None) -> None:
        reports.setdefault(what, []).append((done, total))

    check_folder(intact, progress)
    assert [done for done, _ in reports["nlvr2 (vilt), train: examples"]] == list(range(1, 11))
    assert reports["nlvr2 (vilt), train: images"][-1] == (10, 10)


def test_a_folder_without_published_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no published data; .* folders lxmert, uniter, vilt"
    ):
        check_folder(tmp_path)


def test_an_incomplete_task_is_a_finding(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "nlvr2", "lxmert")
    published_files.write_task(tmp_path, "retrieval", "vilt")
    (tmp_path / "lxmert/nlvr2/valid.json").unlink()
    (tmp_path / "vilt/f30k_caption_karpathy_val.arrow").unlink()
    result = check_folder(tmp_path)
    assert result.counts == ()
    first, second = sorted(result.findings)
    assert first.startswith(f"{tmp_path}/lxmert/nlvr2/valid.json: no such file, but other files")
    assert second.startswith(f"{tmp_path}/vilt/f30k_caption_karpathy_val.arrow: no such file")


def test_retrieval_is_checked_on_val_and_on_test(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "retrieval", "uniter")
    published_files.write_uniter_files(
        tmp_path / "x", "retrieval", resolve_layout("retrieval", "uniter", {"split": "test"})
    )
    name = "uniter/txt_db/itm_flickr30k_test.db"
    (tmp_path / "x" / name).rename(tmp_path / name)
    assert [count.split for count in check_folder(tmp_path).counts] == ["train", "val", "test"]


def rewrite_regions(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Rewrite an image database with a changed first image."""
    images = [(name, published_files.make_regions(n, 12)) for n, name in enumerate(_names(folder))]
    change(images[0][1])
    for file in [*folder.rglob("*.*")]:
        if file.is_file():
            file.unlink()
    folder.rename(folder.with_name("old"))
    write_image_db(folder, images, rule=BoxRule())


def _names(folder: Path) -> list[str]:
    return published_files.region_file_names(str(folder))


def not_finite(fields: dict[str, np.ndarray]) -> None:
    fields["features"][3, 1] = np.nan


def outside(fields: dict[str, np.ndarray]) -> None:
    fields["norm_bb"][2, 3] = 1.2


def reversed_corners(fields: dict[str, np.ndarray]) -> None:
    fields["norm_bb"][2, :4] = [0.6, 0.1, 0.2, 0.3]


def no_regions(fields: dict[str, np.ndarray]) -> None:
    for name, array in fields.items():
        fields[name] = array[:0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (not_finite, "features: values that are not finite"),
        (outside, "boxes: 1.2 is not a number from 0 to 1"),
        (reversed_corners, "boxes: x2 is below x1 in a row"),
        (no_regions, "features: 0 regions, not 1 or more"),
    ],
)
def test_invalid_regions_are_findings(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None], what: str
) -> None:
    published_files.write_task(tmp_path, "snli_ve", "uniter")
    rewrite_regions(tmp_path / "uniter/img_db/flickr30k", change)
    (finding,) = check_folder(tmp_path).findings
    assert re.match(f"{tmp_path}/uniter/img_db/flickr30k: image flickr30k_0.npz: {what}; ", finding)


def test_tsv_boxes_outside_the_image_are_findings(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "nlvr2", "lxmert")
    images = [published_files.tsv_image(n) for n in range(NUM_IMAGES)]
    images[2]["img_w"] = 300
    write_tsv(tmp_path / "lxmert/nlvr2_imgfeat/valid_obj36.tsv", images)
    (finding,) = check_folder(tmp_path).findings
    assert "valid_obj36.tsv: image image_2: boxes: 2.1" in finding


def test_inconsistent_json_files_are_findings(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "vqa", "uniter")
    published_files.write_task(tmp_path, "vqa", "lxmert")
    folder = tmp_path / "uniter/txt_db"
    for name, file in (("vqa_train.db", "txt2img.json"), ("vqa_vg.db", "id2len.json")):
        entries = json.loads((folder / name / file).read_text())
        key = list(entries)[3]
        entries[key] = "other.npz" if file == "txt2img.json" else 2
        write_json(folder / name / file, entries)
    (folder / "vqa_devval.db/txt2img.json").unlink()
    other = tmp_path / "lxmert/vqa/trainval_label2ans.json"
    write_json(other, json.loads(other.read_text())[::-1])
    whats = (
        "vqa_train.db/txt2img.json: names another image for",
        "vqa_vg.db/id2len.json: lists",
        "vqa_devval.db/txt2img.json: no such file",
        "trainval_label2ans.json: does not list the answers",
    )
    findings = check_folder(tmp_path).findings
    assert len(findings) == len(whats)
    for what, finding in zip(whats, findings, strict=True):
        assert what in finding


def test_each_kind_of_damage_is_a_finding_of_one_line(tmp_path: Path) -> None:
    for task, file_format in LAYOUTS:
        published_files.write_task(tmp_path, task, file_format)
    os.truncate(
        tmp_path / "uniter/img_db/flickr30k" / BoxRule().environment_name / "data.mdb", 5000
    )
    os.truncate(tmp_path / "vilt/snli_train.arrow", 700)
    (tmp_path / "lxmert/gqa/trainval_ans2label.json").write_text('{"yes": 3}')
    (tmp_path / "uniter/txt_db/nlvr2_dev.db/id2len.json").write_text('{"1": ')
    files = LAYOUTS["gqa", "uniter"].train[0]
    records = published_files.text_records("gqa", files)
    next(iter(records.values()))["img_fname"] = "gone.npz"
    (tmp_path / files.texts).rename(tmp_path / "old")
    write_text_db(tmp_path / files.texts, records.items(), meta=published_files.UNITER_META)
    result = check_folder(tmp_path)
    expected = {
        "uniter/img_db/flickr30k": "it is truncated",
        "vilt/snli_train.arrow": "not a complete Arrow file",
        "lxmert/gqa/trainval_ans2label.json": "labels are not 0 to 0",
        "uniter/txt_db/nlvr2_dev.db/id2len.json": "cannot be read",
        "uniter/img_db/vg": "holds no image gone.npz",
    }
    for file, what in expected.items():
        matching = [f for f in result.findings if f.startswith(f"{tmp_path}/{file}")]
        assert matching
        assert what in matching[0]
    assert len(result.findings) == len(expected)
    assert not any("\n" in finding for finding in result.findings)
    # The intact splits are still counted.
    assert ("vcr", "train") in {(count.task, count.split) for count in result.counts}


def test_every_published_name_is_in_a_folder_of_its_format() -> None:
    for task, file_format in LAYOUTS:
        assert all(path.startswith(f"{file_format}/") for path in task_files(task, file_format, {}))
