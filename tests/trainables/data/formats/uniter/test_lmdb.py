"""UNITER's databases: records are read as written, and damaged or unsafe ones are refused."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np
import pytest

from tests.support.published_files import UNITER_META, make_regions
from trainables.data.formats.uniter.arrays import from_npz, pack_array, to_npz, unpack_record
from trainables.data.formats.uniter.lmdb import (
    IMAGE_FIELDS,
    BoxRule,
    ImageDb,
    TextDb,
    write_image_db,
    write_text_db,
)
from trainables.errors import DataError

Fields = dict[str, np.ndarray]
RULES = [BoxRule(), BoxRule(threshold=-1), BoxRule(threshold=0.6, min_boxes=2, max_boxes=7)]


def images(counts: Iterable[int] = (5, 12, 30)) -> Iterator[tuple[str, Fields]]:
    for number, count in enumerate(counts):
        yield f"image_{number}.npz", make_regions(number, count)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.environment_name)
def test_an_image_is_read_as_float16_with_the_boxes_of_the_rule(
    tmp_path: Path, rule: BoxRule, compressed: bool
) -> None:
    write_image_db(tmp_path / "db", images(), rule=rule, compressed=compressed)
    db = ImageDb(tmp_path / "db", rule)
    assert db.names() == [name for name, _ in images()]
    for name, fields in images():
        confident = int((fields["conf"] > rule.threshold).sum())
        kept = (
            rule.max_boxes
            if rule.threshold == -1
            else max(rule.min_boxes, min(rule.max_boxes, confident))
        )
        actual = db.read(name)
        assert actual.keys() == fields.keys()
        for field, array in fields.items():
            np.testing.assert_array_equal(actual[field], array[:kept].astype(np.float16))
    db.close()


def test_the_environments_are_named_as_published() -> None:
    assert [rule.environment_name for rule in RULES] == [
        "feat_th0.2_max100_min10",
        "feat_numbb100",
        "feat_th0.6_max7_min2",
    ]
    assert BoxRule().counts_file == "nbb_th0.2_max100_min10.json"


def test_the_same_images_give_the_same_bytes_and_leave_no_lock(tmp_path: Path) -> None:
    actual = []
    for name in ("a", "b"):
        folder = tmp_path / name
        write_image_db(folder, images(), rule=BoxRule())
        ImageDb(folder, BoxRule()).close()
        files = [file for file in folder.rglob("*") if file.is_file()]
        actual.append({str(file.relative_to(folder)): file.read_bytes() for file in files})
    assert actual[0] == actual[1]
    assert sorted(actual[0]) == [
        "feat_th0.2_max100_min10/data.mdb",
        "nbb_th0.2_max100_min10.json",
    ]


def test_a_database_without_counts_selects_boxes_by_confidence(tmp_path: Path) -> None:
    """The authors' script writes `all` if it keeps every box."""
    rule = BoxRule(threshold=0.6, min_boxes=2, max_boxes=7)
    write_image_db(tmp_path / "db", images(), rule=BoxRule(threshold=-1))
    (tmp_path / "db" / "feat_numbb100").rename(tmp_path / "db" / "all")
    db = ImageDb(tmp_path / "db", rule)
    for name, fields in images():
        assert len(db.read(name)["features"]) == rule.count(fields)
    db.close()


def test_an_npz_of_numpy_1_is_read_without_its_extra_member() -> None:
    """In numpy 1 `savez_compressed(..., allow_pickle=True)` stored an array of that name."""
    fields = {name: array.astype(np.float16) for name, array in make_regions(1, 4).items()}
    with io.BytesIO(to_npz(fields)) as stream:
        with zipfile.ZipFile(stream, "a") as members, io.BytesIO() as member:
            np.save(member, np.array(True))
            members.writestr("allow_pickle.npy", member.getvalue())
        raw = stream.getvalue()
    assert "allow_pickle" in np.load(io.BytesIO(raw)).files
    assert from_npz(raw, IMAGE_FIELDS).keys() == fields.keys()


def test_arrays_of_objects_are_refused() -> None:
    described = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"\x80\x04N."}
    with pytest.raises(ValueError, match="array"):
        unpack_record(msgpack.packb({"features": described}))
    with pytest.raises(ValueError, match="array"):
        unpack_record(msgpack.packb({"features": described | {b"kind": b""}}))
    with io.BytesIO() as stream:
        np.savez_compressed(stream, features=np.array([{}], object))
        with pytest.raises(ValueError, match=r"[Oo]bject"):
            from_npz(stream.getvalue(), ("features",))


def test_numbers_packed_by_msgpack_numpy_are_read() -> None:
    number = {b"nd": False, b"type": "<f4", b"data": np.float32(0.5).tobytes()}
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    actual = unpack_record(msgpack.packb({"a": number, "b": pack_array(array), "c": [1, "x"]}))
    assert (actual["a"], actual["c"]) == (0.5, [1, "x"])
    np.testing.assert_array_equal(actual["b"], array)


RECORDS = {f"q{n}": {"input_ids": [5, 6, 7 + n], "img_fname": f"im{n % 2}.npz"} for n in range(3)}


def test_a_text_database_and_its_side_files(tmp_path: Path) -> None:
    assert write_text_db(tmp_path / "a.db", RECORDS.items(), meta=UNITER_META) == 3
    db = TextDb(tmp_path / "a.db")
    assert dict(db.lengths()) == {"q0": 3, "q1": 3, "q2": 3}
    assert {key: db.read(key) for key in RECORDS} == RECORDS
    assert db.meta == UNITER_META
    images = json.loads((tmp_path / "a.db" / "img2txts.json").read_text())
    assert images == {"im0.npz": ["q0", "q2"], "im1.npz": ["q1"]}
    assert not (tmp_path / "a.db" / "lock.mdb").exists()
    db.close()


def test_the_official_loader_can_read_the_database(tmp_path: Path) -> None:
    """Its `TxtLmdb`: lz4 frames of msgpack under the id."""
    write_text_db(tmp_path / "a.db", RECORDS.items(), meta=UNITER_META)
    with lmdb.open(str(tmp_path / "a.db"), readonly=True, lock=False) as env, env.begin() as txn:
        raw = txn.get(b"q1")
    assert raw[:4] == bytes.fromhex("04224d18")
    assert msgpack.loads(lz4.frame.decompress(raw), raw=False) == RECORDS["q1"]


def test_reading_works_on_read_only_media(tmp_path: Path) -> None:
    write_text_db(tmp_path / "a.db", RECORDS.items(), meta=UNITER_META)
    (tmp_path / "a.db" / "data.mdb").chmod(0o444)
    (tmp_path / "a.db").chmod(0o555)
    db = TextDb(tmp_path / "a.db")
    assert db.read("q0") == RECORDS["q0"]
    assert not (tmp_path / "a.db" / "lock.mdb").exists()
    db.close()
    (tmp_path / "a.db").chmod(0o755)


def put(folder: Path, key: str, value: bytes) -> None:
    with lmdb.open(str(folder), map_size=2**24, lock=False) as env, env.begin(write=True) as txn:
        txn.put(key.encode(), value)


def image_record(**changes: Any) -> bytes:
    fields = {
        name: array.astype(np.float16) for name, array in make_regions(0, 5).items()
    } | changes
    kept = {name: array for name, array in fields.items() if array is not None}
    return bytes(msgpack.packb(kept, default=pack_array))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (b"\x81\xa3", "cannot be decoded"),
        (image_record(norm_bb=None), "has no norm_bb"),
        (image_record(norm_bb=np.zeros((5, 4), np.float16)), "norm_bb of image_0.npz is float16"),
        (image_record(features=np.zeros((4, 8), np.float16)), "not floats of 5 boxes"),
        (image_record(features=np.zeros((5, 8), np.int64)), "features of image_0.npz is int64"),
        (image_record(soft_labels=np.zeros(5, np.float16)), "soft_labels"),
    ],
)
def test_a_damaged_image_is_reported_in_one_line(tmp_path: Path, value: bytes, what: str) -> None:
    write_image_db(tmp_path / "db", images(), rule=BoxRule())
    put(tmp_path / "db" / BoxRule().environment_name, "image_0.npz", value)
    db = ImageDb(tmp_path / "db", BoxRule())
    with pytest.raises(DataError, match=what) as caught:
        db.read("image_0.npz")
    assert "image_0.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(db.read("image_1.npz")["features"]) == 12
    db.close()


def test_a_damaged_text_is_reported_in_one_line(tmp_path: Path) -> None:
    write_text_db(tmp_path / "a.db", RECORDS.items(), meta=UNITER_META)
    put(tmp_path / "a.db", "q0", b"not lz4")
    put(tmp_path / "a.db", "q1", lz4.frame.compress(b"\x81"))
    db = TextDb(tmp_path / "a.db")
    for key, what in (
        ("q0", "cannot be decoded"),
        ("q1", "cannot be decoded"),
        ("q9", "no record"),
    ):
        with pytest.raises(DataError, match=f"{what}.*; download"):
            db.read(key)
    db.close()


@pytest.mark.parametrize("size", [0, 100, 4096, 9000])
def test_a_truncated_environment_is_refused_before_it_is_read(tmp_path: Path, size: int) -> None:
    """LMDB would kill the process with a bus error at the first page past the end."""
    write_image_db(tmp_path / "db", images(range(10, 60)), rule=BoxRule())
    os.truncate(tmp_path / "db" / BoxRule().environment_name / "data.mdb", size)
    with pytest.raises(DataError, match=r"data.mdb: .*download or write this database again"):
        ImageDb(tmp_path / "db", BoxRule())


def test_missing_files_and_counts_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"feat_th0.2_max100_min10 or"):
        ImageDb(tmp_path, BoxRule())
    write_image_db(tmp_path / "db", images(), rule=BoxRule())
    (tmp_path / "db" / str(BoxRule().counts_file)).write_text("[]")
    with pytest.raises(DataError, match="holds a list, not a dict"):
        ImageDb(tmp_path / "db", BoxRule())
    (tmp_path / "db" / str(BoxRule().counts_file)).write_text("{}")
    with pytest.raises(DataError, match=r"has no count for image_0.npz"):
        ImageDb(tmp_path / "db", BoxRule()).read("image_0.npz")
    with pytest.raises(DataError, match=r"meta.json: no such file"):
        TextDb(tmp_path)


def test_the_writers_do_not_overwrite(tmp_path: Path) -> None:
    twice = [("q0", RECORDS["q0"])] * 2
    with pytest.raises(DataError, match="q0 is repeated"):
        write_text_db(tmp_path / "a.db", twice, meta=UNITER_META)
    with pytest.raises(DataError, match="already exists"):
        write_text_db(tmp_path / "a.db", RECORDS.items(), meta=UNITER_META)
