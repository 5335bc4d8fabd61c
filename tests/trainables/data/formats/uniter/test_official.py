"""UNITER's databases in the shapes of the authors' scripts are read as their loaders read them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.support import published_files
from tests.support.official_files import (
    Fields,
    convert_imgdir,
    generate_npz,
    num_boxes,
    write_txt_db,
)
from tests.support.published_files import NUM_IMAGES, UNITER_META, read_task_data
from trainables.data.check import check_folder
from trainables.data.formats import resolve_layout
from trainables.data.formats.uniter.arrays import unpack_record
from trainables.data.formats.uniter.lmdb import BoxRule, ImageDb, write_image_db
from trainables.data.schema.examples import Regions
from trainables.errors import DataError

COUNTS = (5, 12, 30, 130)
FIRST = BoxRule(threshold=-1)


def images() -> dict[str, Fields]:
    return {f"nlvr2_dev-{n}-img0.npz": generate_npz(n, count) for n, count in enumerate(COUNTS)}


def check(db: ImageDb, expected: dict[str, int]) -> None:
    """`DetectFeatLmdb.__getitem__`: the first rows of each array; in `get_dump`, of all arrays."""
    for name, fields in images().items():
        actual = db.read(name)
        assert actual.keys() == fields.keys()
        for field, array in fields.items():
            first = array[: expected[name]]
            np.testing.assert_array_equal(actual[field], first[:, 0] if field == "conf" else first)
    db.close()


@pytest.mark.parametrize("compress", [False, True])
def test_databases_of_the_authors_script_are_read(tmp_path: Path, compress: bool) -> None:
    convert_imgdir(tmp_path / "db", images(), compress=compress)
    assert any((tmp_path / "db").rglob("lock.mdb"))
    # The first has 5 boxes and a count of 10; the last has more than 100.
    expected = {name: num_boxes(fields) for name, fields in images().items()}
    assert next(iter(expected.values())) == 10
    assert expected == json.loads((tmp_path / "db/nbb_th0.2_max100_min10.json").read_text())
    db = ImageDb(tmp_path / "db", BoxRule())
    assert db.names() == list(images())
    check(db, expected)


@pytest.mark.parametrize("compress", [False, True])
def test_boxes_are_selected_from_all_as_float16(tmp_path: Path, compress: bool) -> None:
    """A confidence stored for 0.2 is not above the threshold."""
    convert_imgdir(tmp_path / "db", images(), compress=compress, keep_all=True)
    expected = {name: num_boxes(fields) for name, fields in images().items()}
    near = images()["nlvr2_dev-2-img0.npz"]["conf"]
    assert (near[:16, 0] > np.float16(0.2)).all()
    assert np.float16(0.2) in near
    check(ImageDb(tmp_path / "db", BoxRule()), expected)
    check(ImageDb(tmp_path / "db", FIRST), dict.fromkeys(expected, 100))


@pytest.mark.parametrize("compress", [False, True])
def test_the_first_hundred_boxes_need_no_counts(tmp_path: Path, compress: bool) -> None:
    convert_imgdir(tmp_path / "db", images(), conf_th=-1, compress=compress)
    assert not list((tmp_path / "db").glob("*.json"))
    expected = {name: num_boxes(fields, -1) for name, fields in images().items()}
    check(ImageDb(tmp_path / "db", FIRST), expected)


def test_without_the_counts_of_a_rule_all_is_read(tmp_path: Path) -> None:
    """`DetectFeatLmdb` opens `all` unless the file of counts of its own rule exists, whatever
    other rules the folder was written for."""
    convert_imgdir(tmp_path / "db", images())
    convert_imgdir(tmp_path / "db", images(), conf_th=0.5)
    convert_imgdir(tmp_path / "db", images(), keep_all=True)
    (tmp_path / "db/nbb_th0.2_max100_min10.json").unlink()
    db = ImageDb(tmp_path / "db", BoxRule())
    assert db.folder.name == "all"
    check(db, {name: num_boxes(fields) for name, fields in images().items()})
    half = ImageDb(tmp_path / "db", BoxRule(threshold=0.5))
    assert half.folder.name == "feat_th0.5_max100_min10"
    check(half, {name: num_boxes(fields, 0.5) for name, fields in images().items()})


def test_a_lost_file_of_counts_is_not_needed(tmp_path: Path) -> None:
    """The records were cut when they were written."""
    convert_imgdir(tmp_path / "db", images())
    (tmp_path / "db/nbb_th0.2_max100_min10.json").unlink()
    check(
        ImageDb(tmp_path / "db", BoxRule()),
        {name: num_boxes(fields) for name, fields in images().items()},
    )


@pytest.mark.parametrize("compress", [False, True])
def test_fields_that_the_loader_does_not_read_may_hold_anything(
    tmp_path: Path, compress: bool
) -> None:
    fields = generate_npz(1, 12)
    fields["conf"] = np.ones(12, np.int64)
    fields["names"] = np.array(["a tree"] * 12)
    del fields["soft_labels"]
    convert_imgdir(tmp_path / "db", {"a.npz": fields}, conf_th=-1, compress=compress)
    db = ImageDb(tmp_path / "db", FIRST)
    actual = db.read("a.npz", ("features", "norm_bb"))
    np.testing.assert_array_equal(actual["norm_bb"], fields["norm_bb"])
    with pytest.raises(DataError, match=r"conf of a.npz is int64 \(12,\), not floats of 12 boxes"):
        db.read("a.npz")
    db.close()


def test_the_authors_confidences_can_be_written(tmp_path: Path) -> None:
    write_image_db(tmp_path / "db", images().items(), rule=BoxRule())
    db = ImageDb(tmp_path / "db", BoxRule())
    check(db, {name: num_boxes(fields) for name, fields in images().items()})


def test_a_task_on_files_of_the_authors_scripts(tmp_path: Path) -> None:
    """NLVR2, whose scripts were published. The media are read-only."""
    layout = resolve_layout("nlvr2", "uniter", {})
    files = [*layout.train, *layout.held_out]
    for each in files:
        stem = Path(each.images[0]).name
        regions = {f"{stem}-{n}.npz": generate_npz(n, 12 + 20 * n) for n in range(NUM_IMAGES)}
        convert_imgdir(tmp_path / each.images[0], regions)
        records = {}
        for number in range(4):
            names = (f"{stem}-{number}.npz", f"{stem}-{number + 1}.npz")
            records[f"dev-{number}-0-0"] = {
                "identifier": f"dev-{number}-0-0",
                "sentence": "two dogs",
                "label": "True" if number % 2 else "False",
                "validation": {"3": "True"},
                "synset": None,
                "toked_question": ["two", "dog", "@@s"],
                "input_ids": [110 + number, 111, 112],
                "img_fname": names,
                "target": number % 2,
            }
        write_txt_db(tmp_path / each.texts, records, UNITER_META["v_range"])
    folders = [folder for folder in tmp_path.rglob("*") if (folder / "data.mdb").exists()]
    for folder in folders:
        (folder / "data.mdb").chmod(0o444)
        folder.chmod(0o555)
    assert check_folder(tmp_path).findings == ()
    data = read_task_data(tmp_path, "nlvr2", "uniter")
    for folder in folders:
        folder.chmod(0o755)
    for split in (data.train, data.held_out):
        assert list(split.keys) == [f"dev-{n}-0-0" for n in range(4)]
        texts = [row.tolist() for row in split.texts.rows(np.arange(4))]
        assert texts == [[101, 110 + n, 111, 112, 102] for n in range(4)]
        assert [row.tolist() for row in split.labels.rows(np.arange(4))] == [[0], [1], [0], [1]]
        assert isinstance(split.image_data, Regions)
        for example in range(4):
            for image in range(2):
                number = example + image
                fields = generate_npz(number, 12 + 20 * number)
                kept = num_boxes(fields)
                row = split.images[example, image : image + 1]
                (features,) = split.image_data.features.rows(row)
                np.testing.assert_array_equal(features, fields["features"][:kept])
                # `_get_img_feat`: the area is the product of the sides, in float32.
                boxes = fields["norm_bb"][:kept].astype(np.float32)
                seven = np.concatenate([boxes, boxes[:, 4:5] * boxes[:, 5:]], axis=1)
                (actual,) = split.image_data.boxes.rows(row)
                np.testing.assert_array_equal(actual, seven)


def test_mappings_with_integer_keys_are_read() -> None:
    """The msgpack of UNITER's time packed and read them."""
    record: dict[str, Any] = {"input_ids": [1], "objects": {0: "person"}}
    assert unpack_record(msgpack.packb(record)) == record


def test_pretraining_reads_the_classes_of_the_authors_files(tmp_path: Path) -> None:
    """`get_dump`, in which the member that numpy 1 added failed."""
    published_files.write_task(tmp_path, "pretraining", "uniter", (("corpora", "vg"),))
    folder = tmp_path / "uniter/img_db/vg"
    os.rename(folder, tmp_path / "old")
    regions = {f"vg_{n}.npz": generate_npz(n, 12 + 20 * n) for n in range(NUM_IMAGES)}
    convert_imgdir(folder, regions, compress=True)
    split = read_task_data(tmp_path, "pretraining", "uniter", (("corpora", "vg"),)).train
    assert isinstance(split.image_data, Regions)
    assert split.image_data.classes is not None
    fields = generate_npz(3, 72)
    (actual,) = split.image_data.classes.rows(split.images[3])
    np.testing.assert_array_equal(actual, fields["soft_labels"][: num_boxes(fields)])


def test_referring_expressions_have_no_files_of_images(tmp_path: Path) -> None:
    """`prepro.py` writes `txt2img.json` for NLVR2 only."""
    published_files.write_task(tmp_path, "refcoco", "uniter")
    for name in ("txt2img", "img2txts"):
        for file in tmp_path.rglob(f"{name}.json"):
            file.unlink()
    assert check_folder(tmp_path).findings == ()
    assert len(read_task_data(tmp_path, "refcoco", "uniter").train) == 12
