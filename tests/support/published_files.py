"""Small data folders in the published formats for every task, written by the package's writers.

Every split of every task has `NUM_EXAMPLES` examples per file, on few images; the content of an
example is a function of its number.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.fingerprint import fingerprint
from trainables.data.formats import FORMATS, resolve_layout, task_files
from trainables.data.formats.json_stream import write_json, write_list
from trainables.data.formats.lxmert.tsv import write_answers, write_tsv
from trainables.data.formats.uniter.lmdb import box_rule, write_image_db, write_text_db
from trainables.data.formats.vilt.arrow import write_table
from trainables.data.open import open_data
from trainables.data.reference import LocalData
from trainables.data.schema.examples import Data
from trainables.data.schema.layouts import Layout, SplitFiles
from trainables.spec import Options, TaskSpec
from trainables.tasks import TASKS

LAYOUTS = {
    (task, name): layout
    for name, entry in FORMATS.items()
    for task, layout in entry.layouts.items()
}
"""(task, format) -> the files that the package knows."""
NUM_EXAMPLES = 12
NUM_IMAGES = 5
REGION_DIM = 8
_CLASSES = 4
PUBLISHED_ANSWERS = ("yes", "no", "red", "two cubes")
UNITER_META = {"CLS": 101, "SEP": 102, "MASK": 103, "UNK": 100, "v_range": [106, 300]}
WORDS = (
    *("what", "is", "the", "colour", "of", "this", "ball", "how", "many", "cubes"),
    *("are", "there", "yes", "no", "red", "two"),
)
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", *dict.fromkeys(WORDS), "##s", "?"]

_Record = dict[str, Any]


def write_task(root: Path, task: str, file_format: str, options: Options = ()) -> TaskSpec:
    """Write all files of a task below `root`; return the spec of the task on them."""
    layout = resolve_layout(task, file_format, dict(options))
    {"uniter": write_uniter_files, "lxmert": _lxmert, "vilt": _vilt}[file_format](
        root, task, layout
    )
    return task_spec(root, task, file_format, options)


def task_spec(root: Path, task: str, file_format: str, options: Options = ()) -> TaskSpec:
    files = task_files(task, file_format, dict(options))
    data, semantics = fingerprint(root, files), TASKS[task].semantics
    return TaskSpec(name=task, data=data, options=options, semantics=semantics)


def read_task_data(root: Path, task: str, file_format: str, options: Options = ()) -> Data:
    """Open the data below `root` in its current state."""
    spec = task_spec(root, task, file_format, options)
    size, patch = (64, 32) if file_format == "vilt" else (0, 0)
    return open_data(
        LocalData(root), root / "cache", spec, file_format, image_size=size, patch_size=patch
    )


def make_regions(number: int, count: int) -> dict[str, np.ndarray]:
    """Return an image's regions: random numbers in float32, boxes inside the image."""
    rng = np.random.default_rng(number)
    corners = np.sort(rng.random((count, 2, 2), np.float32), axis=1).reshape(count, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return {
        "features": rng.standard_normal((count, REGION_DIM), np.float32),
        "norm_bb": np.concatenate([corners, sides], axis=1),
        "conf": np.linspace(0.9, 0.3, count, dtype=np.float32),
        "soft_labels": rng.dirichlet(np.ones(_CLASSES), count).astype(np.float32),
    }


def make_png(number: int, width: int = 48, height: int = 32) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, format="PNG")
        return stream.getvalue()


def make_sentence(number: int) -> str:
    return " ".join(WORDS[(number * 3 + i) % len(WORDS)] for i in range(2 + number % 5))


# --- UNITER --------------------------------------------------------------------------------------


def _ids(number: int, length: int = 0) -> list[int]:
    return [106 + (number + 7 * i) % 190 for i in range(length or 2 + number % 6)]


def _targets(number: int, count: int) -> _Record:
    if number % 4 == 3:
        return {"labels": [], "scores": []}
    labels = [number % count, (number + 1) % count]
    return {"labels": labels, "scores": [1.0, 0.3]}


def region_file_names(database: str) -> list[str]:
    if database.endswith("re_coco_gt"):
        return [f"visual_grounding_coco_gt_{n:012}.npz" for n in range(NUM_IMAGES)]
    if database.endswith("re_coco_det"):
        return [f"visual_grounding_det_coco_{n:012}.npz" for n in range(NUM_IMAGES)]
    return [f"{Path(database).name}_{n}.npz" for n in range(NUM_IMAGES)]


def _text_record(task: str, files: SplitFiles, number: int) -> _Record:
    names = [region_file_names(images)[number % NUM_IMAGES] for images in files.images]
    record: _Record = {"input_ids": _ids(number), "img_fname": names[0]}
    if task in ("vqa", "gqa", "snli_ve"):
        record["target"] = _targets(number, 3 if task == "snli_ve" else len(PUBLISHED_ANSWERS))
    elif task == "nlvr2":
        other = region_file_names(files.images[0])[(number + 1) % NUM_IMAGES]
        record |= {"img_fname": [names[0], other], "target": number % 2}
    elif task == "vcr":
        record |= {
            "img_fname": names,
            "input_ids_as": [_ids(number + n, 3 + n) for n in range(4)],
            "input_ids_rs": [_ids(number + n, 5 + n) for n in range(4)],
            "qa_target": number % 4,
            "qar_target": (number + 1) % 4,
        }
    elif task == "refcoco":
        box = number % 3
        record |= {
            "sent_id": number,
            "ref_id": number,
            "ann_id": 10 * (number % NUM_IMAGES) + box,
            "image_id": number % NUM_IMAGES,
            "bbox": [5.0 * box, 2.0, 10.0, 20.0],
        }
    return record


def _referring(records: Mapping[str, _Record]) -> dict[str, Any]:
    """Return the contents of RefCOCO+'s JSON files. The refs are in reverse, so that their order
    differs from that of the records."""
    refs = [{"ref_id": int(key), "sent_ids": [int(key)]} for key in reversed(list(records))]
    images = [
        {"id": n, "ann_ids": [10 * n + k for k in range(3)], "width": 100, "height": 80}
        for n in range(NUM_IMAGES)
    ]
    return {"refs": refs, "annotations": [], "categories": [], "images": images}


def text_records(task: str, files: SplitFiles) -> dict[str, _Record]:
    start = 100 * sum(files.texts.encode())
    numbers = range(start, start + NUM_EXAMPLES)
    return {str(n): _text_record(task, files, n - start) for n in numbers}


def write_uniter_files(root: Path, task: str, layout: Layout) -> None:
    for files in (*layout.train, *layout.held_out):
        for database in files.images:
            write_regions(root / database)
        records = text_records(task, files)
        referring = _referring(records) if task == "refcoco" else None
        write_text_db(
            root / files.texts, records.items(), meta=UNITER_META, refcoco_files=referring
        )
    if layout.answers_file:
        labels = {answer: label for label, answer in enumerate(PUBLISHED_ANSWERS)}
        write_json(root / layout.answers_file, labels)


def write_regions(folder: Path, *, compressed: bool = False) -> None:
    if not folder.exists():
        rule = box_rule(folder.name)
        count = 3 if folder.name == "re_coco_gt" else 12
        images = (
            (name, make_regions(n, count + (n if count > 3 else 0)))
            for n, name in enumerate(region_file_names(str(folder)))
        )
        write_image_db(folder, images, rule=rule, compressed=compressed)


# --- LXMERT --------------------------------------------------------------------------------------


def tsv_image(number: int) -> _Record:
    regions = make_regions(number, 36)
    scale = np.array([640, 480, 640, 480], np.float32)
    return {
        "img_id": f"image_{number}",
        "img_h": 480,
        "img_w": 640,
        "objects_id": np.arange(36),
        "objects_conf": regions["conf"],
        "attrs_id": np.arange(36),
        "attrs_conf": regions["conf"],
        "boxes": regions["norm_bb"][:, :4] * scale,
        "features": regions["features"],
    }


def lxmert_entries(task: str) -> Iterator[_Record]:
    for number in range(NUM_EXAMPLES):
        entry: _Record = {"sent": make_sentence(number)}
        if task == "nlvr2":
            images = {f"img{n}": f"image_{(number + n) % NUM_IMAGES}" for n in range(2)}
            entry |= {"identifier": f"dev-{number}-0-0", "label": number % 2, **images}
        else:
            answer = PUBLISHED_ANSWERS[number % len(PUBLISHED_ANSWERS)]
            label = {answer: 1.0} if task == "gqa" else {answer: 0.6, PUBLISHED_ANSWERS[0]: 1}
            entry |= {
                "question_id": number,
                "img_id": f"image_{number % NUM_IMAGES}",
                "label": label,
            }
        yield entry


def _lxmert(root: Path, task: str, layout: Layout) -> None:
    for files in (*layout.train, *layout.held_out):
        # No example has the last image.
        write_tsv(root / files.images[0], (tsv_image(n) for n in range(NUM_IMAGES + 1)))
        write_list(root / files.texts, lxmert_entries(task))
    if layout.answers_file:
        write_answers((root / layout.answers_file).parent, PUBLISHED_ANSWERS)
    _vocabulary(root / layout.vocabulary_file)


def _vocabulary(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(VOCAB) + "\n")


# --- ViLT ----------------------------------------------------------------------------------------


def _vqa_rows(stem: str) -> Iterator[_Record]:
    for row in range(NUM_IMAGES):
        numbers = [3 * row + n for n in range(3)]
        labels = [[n % len(PUBLISHED_ANSWERS)] for n in numbers]
        yield {
            "image": make_png(row),
            "questions": [make_sentence(n) for n in numbers],
            "answers": [[PUBLISHED_ANSWERS[label] for label in each] for each in labels],
            "answer_labels": labels,
            "answer_scores": [[0.9] for _ in numbers],
            "image_id": row,
            "question_id": numbers,
            "split": stem,
        }


def _nlvr2_rows(stem: str) -> Iterator[_Record]:
    for row in range(NUM_IMAGES):
        yield {
            "image_0": make_png(row),
            "image_1": make_png(100 + row, width=32, height=64),
            "questions": [make_sentence(row), make_sentence(row + 1)],
            "answers": ["True", "False"],
            "identifier": f"dev-{row}-0",
        }


def _snli_rows(stem: str) -> Iterator[_Record]:
    for row in range(NUM_IMAGES):
        pairs = [[make_sentence(row + 7), make_sentence(row + n)] for n in range(2)]
        yield {"image": make_png(row), "sentences": pairs, "labels": [row % 3, (row + 1) % 3]}


def _caption_rows(stem: str) -> Iterator[_Record]:
    for row in range(NUM_IMAGES):
        captions = [make_sentence(row), make_sentence(row + 1), make_sentence(row)]
        yield {"image": make_png(row), "caption": captions, "image_id": f"{row}.jpg", "split": stem}


ROWS: Mapping[str, tuple[Any, Callable[[str], Iterator[_Record]]]] = {
    "vqa": ("vqa", _vqa_rows),
    "nlvr2": ("nlvr2", _nlvr2_rows),
    "snli_ve": ("snli", _snli_rows),
    "retrieval": ("caption", _caption_rows),
}


def _vilt(root: Path, task: str, layout: Layout) -> None:
    kind, rows = ROWS[task]
    for files in (*layout.train, *layout.held_out):
        write_table(root / files.texts, kind, rows(Path(files.texts).stem))
    _vocabulary(root / layout.vocabulary_file)
