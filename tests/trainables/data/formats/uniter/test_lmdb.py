"""UNITER's databases: what is written is what is read, and nothing else is believed."""

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

from tests.support.published_files import META, regions
from trainables.data.formats.uniter.arrays import as_npz, from_npz, packed, unpacked
from trainables.data.formats.uniter.lmdb import (
    FIELDS,
    Boxes,
    ImageDb,
    TextDb,
    write_image_db,
    write_text_db,
)
from trainables.errors import DataError

Fields = dict[str, np.ndarray]
RULES = [Boxes(), Boxes(threshold=-1), Boxes(threshold=0.6, least=2, most=7)]


def images(counts: Iterable[int] = (5, 12, 30)) -> Iterator[tuple[str, Fields]]:
    for number, count in enumerate(counts):
        yield f"image_{number}.npz", regions(number, count)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("boxes", RULES, ids=lambda boxes: boxes.environment)
def test_an_image_comes_back_as_float16_with_the_boxes_of_the_rule(
    tmp_path: Path, boxes: Boxes, compressed: bool
) -> None:
    write_image_db(tmp_path / "db", images(), boxes=boxes, compressed=compressed)
    db = ImageDb(tmp_path / "db", boxes)
    assert db.names() == [name for name, _ in images()]
    for name, fields in images():
        confident = int((fields["conf"] > boxes.threshold).sum())
        kept = boxes.most if boxes.threshold == -1 else max(boxes.least, min(boxes.most, confident))
        found = db.read(name)
        assert found.keys() == fields.keys()
        for field, array in fields.items():
            np.testing.assert_array_equal(found[field], array[:kept].astype(np.float16))
    db.close()


def test_the_environments_are_named_as_published() -> None:
    assert [boxes.environment for boxes in RULES] == [
        "feat_th0.2_max100_min10",
        "feat_numbb100",
        "feat_th0.6_max7_min2",
    ]
    assert Boxes().counts_file == "nbb_th0.2_max100_min10.json"


def test_the_same_images_give_the_same_bytes_and_leave_no_lock(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        write_image_db(folder, images(), boxes=Boxes())
        ImageDb(folder, Boxes()).close()
        files = [file for file in folder.rglob("*") if file.is_file()]
        found.append({str(file.relative_to(folder)): file.read_bytes() for file in files})
    assert found[0] == found[1]
    assert sorted(found[0]) == [
        "feat_th0.2_max100_min10/data.mdb",
        "nbb_th0.2_max100_min10.json",
    ]


def test_a_database_without_counts_chooses_by_confidence(tmp_path: Path) -> None:
    """The authors' script writes `all` where it keeps every box."""
    boxes = Boxes(threshold=0.6, least=2, most=7)
    write_image_db(tmp_path / "db", images(), boxes=Boxes(threshold=-1))
    (tmp_path / "db" / "feat_numbb100").rename(tmp_path / "db" / "all")
    db = ImageDb(tmp_path / "db", boxes)
    for name, fields in images():
        assert len(db.read(name)["features"]) == boxes.count(fields)
    db.close()


def test_an_npz_of_numpy_1_is_read_without_its_extra_member() -> None:
    """There `savez_compressed(..., allow_pickle=True)` stored an array of that name."""
    fields = {name: array.astype(np.float16) for name, array in regions(1, 4).items()}
    with io.BytesIO(as_npz(fields)) as stream:
        with zipfile.ZipFile(stream, "a") as members, io.BytesIO() as member:
            np.save(member, np.array(True))
            members.writestr("allow_pickle.npy", member.getvalue())
        raw = stream.getvalue()
    assert "allow_pickle" in np.load(io.BytesIO(raw)).files
    assert from_npz(raw, FIELDS).keys() == fields.keys()


def test_arrays_of_objects_are_never_made() -> None:
    described = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"\x80\x04N."}
    with pytest.raises(ValueError, match="array"):
        unpacked(msgpack.packb({"features": described}))
    with pytest.raises(ValueError, match="array"):
        unpacked(msgpack.packb({"features": described | {b"kind": b""}}))
    with io.BytesIO() as stream:
        np.savez_compressed(stream, features=np.array([{}], object))
        with pytest.raises(ValueError, match=r"[Oo]bject"):
            from_npz(stream.getvalue(), ("features",))


def test_numbers_as_msgpack_numpy_packs_them() -> None:
    number = {b"nd": False, b"type": "<f4", b"data": np.float32(0.5).tobytes()}
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    found = unpacked(msgpack.packb({"a": number, "b": packed(array), "c": [1, "x"]}))
    assert (found["a"], found["c"]) == (0.5, [1, "x"])
    np.testing.assert_array_equal(found["b"], array)


RECORDS = {f"q{n}": {"input_ids": [5, 6, 7 + n], "img_fname": f"im{n % 2}.npz"} for n in range(3)}


def test_a_text_database_and_its_side_files(tmp_path: Path) -> None:
    assert write_text_db(tmp_path / "a.db", RECORDS.items(), meta=META) == 3
    db = TextDb(tmp_path / "a.db")
    assert dict(db.lengths()) == {"q0": 3, "q1": 3, "q2": 3}
    assert {key: db.read(key) for key in RECORDS} == RECORDS
    assert db.meta == META
    beside = json.loads((tmp_path / "a.db" / "img2txts.json").read_text())
    assert beside == {"im0.npz": ["q0", "q2"], "im1.npz": ["q1"]}
    assert not (tmp_path / "a.db" / "lock.mdb").exists()
    db.close()


def test_the_official_loader_could_read_it(tmp_path: Path) -> None:
    """Its `TxtLmdb`: lz4 frames of msgpack under the id."""
    write_text_db(tmp_path / "a.db", RECORDS.items(), meta=META)
    with lmdb.open(str(tmp_path / "a.db"), readonly=True, lock=False) as env, env.begin() as txn:
        raw = txn.get(b"q1")
    assert raw[:4] == bytes.fromhex("04224d18")
    assert msgpack.loads(lz4.frame.decompress(raw), raw=False) == RECORDS["q1"]


def test_reading_works_on_read_only_media(tmp_path: Path) -> None:
    write_text_db(tmp_path / "a.db", RECORDS.items(), meta=META)
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
    fields = {name: array.astype(np.float16) for name, array in regions(0, 5).items()} | changes
    kept = {name: array for name, array in fields.items() if array is not None}
    return bytes(msgpack.packb(kept, default=packed))


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
def test_a_damaged_image_is_told_in_one_line(tmp_path: Path, value: bytes, what: str) -> None:
    write_image_db(tmp_path / "db", images(), boxes=Boxes())
    put(tmp_path / "db" / Boxes().environment, "image_0.npz", value)
    db = ImageDb(tmp_path / "db", Boxes())
    with pytest.raises(DataError, match=what) as caught:
        db.read("image_0.npz")
    assert "image_0.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(db.read("image_1.npz")["features"]) == 12
    db.close()


def test_a_damaged_text_is_told_in_one_line(tmp_path: Path) -> None:
    write_text_db(tmp_path / "a.db", RECORDS.items(), meta=META)
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
    """LMDB would end the process with a bus error at the first page past the end."""
    write_image_db(tmp_path / "db", images(range(10, 60)), boxes=Boxes())
    os.truncate(tmp_path / "db" / Boxes().environment / "data.mdb", size)
    with pytest.raises(DataError, match=r"data.mdb: .*download or write this database again"):
        ImageDb(tmp_path / "db", Boxes())


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"feat_th0.2_max100_min10 or"):
        ImageDb(tmp_path, Boxes())
    write_image_db(tmp_path / "db", images(), boxes=Boxes())
    (tmp_path / "db" / str(Boxes().counts_file)).write_text("[]")
    with pytest.raises(DataError, match="holds a list, not a dict"):
        ImageDb(tmp_path / "db", Boxes())
    (tmp_path / "db" / str(Boxes().counts_file)).write_text("{}")
    with pytest.raises(DataError, match=r"has no count for image_0.npz"):
        ImageDb(tmp_path / "db", Boxes()).read("image_0.npz")
    with pytest.raises(DataError, match=r"meta.json: no such file"):
        TextDb(tmp_path)


def test_the_writers_refuse_what_would_be_lost(tmp_path: Path) -> None:
    twice = [("q0", RECORDS["q0"])] * 2
    with pytest.raises(DataError, match="q0 comes twice"):
        write_text_db(tmp_path / "a.db", twice, meta=META)
    with pytest.raises(DataError, match="is there already"):
        write_text_db(tmp_path / "a.db", RECORDS.items(), meta=META)
