"""Small files as the authors' own scripts write them, and what their loaders make of them.

Our writers write one of the shapes that the formats allow; the authors' files have others. Each
function here follows one official script, which its docstring names.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

Fields = dict[str, NDArray[Any]]

# --- UNITER --------------------------------------------------------------------------------------


def generate_npz(number: int, count: int, dim: int = 8, classes: int = 4) -> Fields:
    """Return an image's fields as the extractor writes them (ChenRocks/BUTD-UNITER-NLVR2,
    `generate_npz.py`): float16, `conf` with a second axis, rows by falling confidence."""
    rng = np.random.default_rng(number)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    sides = corners[:, 2:] - corners[:, :2]
    # Around the threshold: 0.2 itself, which is 0.19995 in float16, and its two neighbours.
    near = np.float16(0.2)
    conf = np.linspace(0.9, 0.05, count).astype(np.float16)
    conf[count // 2 : count // 2 + 2] = near, np.nextafter(near, np.float16(0), dtype=np.float16)
    conf[count // 2 - 1] = np.nextafter(near, np.float16(1), dtype=np.float16)
    conf = np.sort(conf)[::-1]
    fields = {
        "norm_bb": np.concatenate([corners, sides], axis=1),
        "features": rng.random((count, dim)),
        "conf": conf[:, None],
        "soft_labels": rng.dirichlet(np.ones(classes), count),
    }
    return {name: array.astype(np.float16) for name, array in fields.items()}


def num_boxes(fields: Fields, conf_th: float = 0.2, max_bb: int = 100, min_bb: int = 10) -> int:
    """Return `compute_num_bb` of UNITER's `data/data.py`. Python's 0.2 becomes float16 there."""
    confident = int((fields["conf"] > np.float16(conf_th)).sum())
    return min(max_bb, max(min_bb, confident))


def convert_imgdir(
    folder: Path,
    images: Mapping[str, Fields],
    *,
    conf_th: float = 0.2,
    compress: bool = False,
    keep_all: bool = False,
) -> None:
    """Write an image database (`scripts/convert_imgdir.py`), with LMDB's lock file."""
    selected = "feat_numbb100" if conf_th == -1 else f"feat_th{conf_th}_max100_min10"
    name = ("all" if keep_all else selected) + "_compressed" * compress
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int | None] = {}
    with lmdb.open(str(folder / name), map_size=2**30) as env:
        txn = env.begin(write=True)
        for number, (file, fields) in enumerate(images.items()):
            # With threshold -1 the count is taken too, so that 100 is all that matters.
            counts[file] = None if keep_all else num_boxes(fields, conf_th)
            kept = {key: array[: counts[file]] for key, array in fields.items()}
            txn.put(file.encode(), _savez(kept) if compress else _msgpack_numpy(kept))
            if number % 2 == 0:
                txn.commit()
                txn = env.begin(write=True)
        txn.put(b"__keys__", json.dumps(list(counts)).encode())
        txn.commit()
    if conf_th != -1 and not keep_all:
        (folder / f"nbb_th{conf_th}_max100_min10.json").write_text(json.dumps(counts))


def _savez(fields: Fields) -> bytes:
    """Do what numpy 1 did for `savez_compressed(..., allow_pickle=True)`: store that too."""
    with io.BytesIO() as stream:
        np.savez_compressed(stream, **fields)  # type: ignore[arg-type]
        with zipfile.ZipFile(stream, "a") as members, io.BytesIO() as member:
            np.save(member, np.array(True))
            members.writestr("allow_pickle.npy", member.getvalue())
        return stream.getvalue()


def _msgpack_numpy(fields: Fields) -> bytes:
    """Pack arrays as the package msgpack-numpy does when it has patched msgpack."""
    packed = {
        name: {
            b"nd": True,
            b"type": array.dtype.str,
            b"kind": b"",
            b"shape": array.shape,
            b"data": array.tobytes(),
        }
        for name, array in fields.items()
    }
    return bytes(msgpack.packb(packed, use_bin_type=True))


def write_txt_db(folder: Path, records: Mapping[str, Mapping[str, Any]], v_range: Any) -> None:
    """Write a text database (`TxtLmdb` of `data/data.py`, and `prepro.py`): with a lock file, all
    arguments of the script in `meta.json`, and side files of the kind of `nlvr2`."""
    folder.mkdir(parents=True)
    meta = {
        "annotations": ["/ann/raw.json"],
        "missing_imgs": None,
        "output": str(folder),
        "task": "nlvr",
        "toker": "bert-base-cased",
        "tokenizer": "bert-base-cased",
        "UNK": 100,
        "CLS": 101,
        "SEP": 102,
        "MASK": 103,
        "v_range": v_range,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=4))
    with lmdb.open(str(folder), map_size=2**30) as env, env.begin(write=True) as txn:
        for key, record in records.items():
            packed = msgpack.packb(record, use_bin_type=True)
            txn.put(key.encode(), lz4.frame.compress(packed))
    lengths = {key: len(record["input_ids"]) for key, record in records.items()}
    images = {key: record["img_fname"] for key, record in records.items()}
    (folder / "id2len.json").write_text(json.dumps(lengths))
    (folder / "txt2img.json").write_text(json.dumps(images))


# --- ViLT ----------------------------------------------------------------------------------------


def write_arrow(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table through pandas, as all of ViLT's `vilt/utils/write_*.py` do."""
    table = pa.Table.from_pandas(pd.DataFrame(rows))
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table)


def odd_images() -> dict[str, bytes]:
    """Return encoded images of 48 x 32 pixels of the kinds that the public data sets hold."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (32, 48, 3), np.uint8)
    alpha = rng.integers(0, 256, (32, 48, 4), np.uint8)
    deep = rng.integers(0, 2**16, (32, 48), np.uint16)
    palette = Image.fromarray(rgb).quantize(16)
    palette.info["transparency"] = 3
    rotated = Image.Exif()
    rotated[0x0112] = 6
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "jpeg": (Image.fromarray(rgb), {"format": "JPEG"}),
        "jpeg that a viewer would turn": (
            Image.fromarray(rgb),
            {"format": "JPEG", "exif": rotated},
        ),
        "cmyk": (Image.fromarray(rgb).convert("CMYK"), {"format": "JPEG"}),
        "grey": (Image.fromarray(rgb).convert("L"), {"format": "JPEG"}),
        "alpha": (Image.fromarray(alpha, "RGBA"), {"format": "PNG"}),
        "grey alpha": (Image.fromarray(alpha, "RGBA").convert("LA"), {"format": "PNG"}),
        "palette": (palette, {"format": "PNG"}),
        "one bit": (Image.fromarray(rgb).convert("1"), {"format": "PNG"}),
        "sixteen bits": (Image.fromarray(deep), {"format": "PNG"}),
        "gif": (palette, {"format": "GIF"}),
        "webp": (Image.fromarray(rgb), {"format": "WEBP"}),
    }
    encoded = {}
    for name, (image, options) in images.items():
        with io.BytesIO() as stream:
            image.save(stream, **options)
            encoded[name] = stream.getvalue()
    return encoded


# --- LXMERT --------------------------------------------------------------------------------------

TSV_FIELDS = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)


def tsv_item(img_id: str, count: int = 36, dim: int = 8, side: int = 500) -> dict[str, Any]:
    """Return an image as LXMERT's `data/nlvr2_imgfeat/extract_nlvr2_image.py` encodes it. Boxes may
    end past the image's edge by less than 1e-5 of its side, which the loaders let through."""
    rng = np.random.default_rng(sum(img_id.encode()))
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4) * side
    corners[0] = [0, 0, side * (1 + 5e-6), side]
    numbers = {
        "objects_id": rng.integers(0, 1600, count),
        "objects_conf": rng.random(count).astype(np.float32),
        "attrs_id": rng.integers(0, 400, count),
        "attrs_conf": rng.random(count).astype(np.float32),
        "boxes": corners.astype(np.float32),
        # Above the largest float16, 65504, and numbers that float16 rounds.
        "features": np.concatenate(
            [np.full((count, 1), 7e4), rng.random((count, dim - 1))], axis=1
        ).astype(np.float32),
    }
    item: dict[str, Any] = {"img_id": img_id, "img_h": side, "img_w": side, "num_boxes": count}
    return item | numbers


def write_obj36(file: Path, items: list[dict[str, Any]]) -> None:
    """Write a TSV file through Python's csv module, whose lines end in CR and LF."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=TSV_FIELDS, delimiter="\t")
        for item in items:
            encoded = {
                name: base64.b64encode(value).decode() if isinstance(value, np.ndarray) else value
                for name, value in item.items()
            }
            writer.writerow(encoded)


def load_obj_tsv(file: Path) -> dict[str, dict[str, Any]]:
    """Read a TSV file as `src/utils.py` does, and normalise the boxes as the Dataset classes do."""
    csv.field_size_limit(2**24)
    images = {}
    with file.open() as stream:
        for item in csv.DictReader(stream, TSV_FIELDS, delimiter="\t"):
            count = int(item["num_boxes"])
            boxes = np.frombuffer(base64.b64decode(item["boxes"]), np.float32).reshape(count, 4)
            boxes = boxes.copy()
            boxes[:, (0, 2)] /= int(item["img_w"])
            boxes[:, (1, 3)] /= int(item["img_h"])
            np.testing.assert_array_less(boxes, 1 + 1e-5)
            features = np.frombuffer(base64.b64decode(item["features"]), np.float32)
            images[item["img_id"]] = {"boxes": boxes, "features": features.reshape(count, -1)}
    return images
