"""Small data folders in the published formats, made with the writers, for every task.

Every split of every task has `EXAMPLES` examples per file, on few images, with content that a
test can tell from the example's number.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.fingerprint import fingerprint
from trainables.data.formats.json_stream import write_json, write_list
from trainables.data.formats.lxmert.tsv import write_answers, write_tsv
from trainables.data.formats.uniter.lmdb import boxes_of, write_image_db, write_text_db
from trainables.data.formats.vilt.arrow import write_table
from trainables.data.open import open_data
from trainables.data.schema.examples import Data
from trainables.data.schema.layouts import Layout, Part, files_of, layout
from trainables.models import Format
from trainables.spec import Options, TaskSpec

EXAMPLES, IMAGES, WIDTH, CLASSES = 12, 5, 8, 4
ANSWERS = ("yes", "no", "red", "two cubes")
META = {"CLS": 101, "SEP": 102, "MASK": 103, "UNK": 100, "v_range": [106, 300]}
WORDS = (
    *("what", "is", "the", "colour", "of", "this", "ball", "how", "many", "cubes"),
    *("are", "there", "yes", "no", "red", "two"),
)
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", *dict.fromkeys(WORDS), "##s", "?"]

Record = dict[str, Any]


def write(root: Path, task: str, form: Format, options: Options = ()) -> TaskSpec:
    """All files of a task below `root`; the task on them."""
    found = layout(task, form, dict(options))
    {"uniter": _uniter, "lxmert": _lxmert, "vilt": _vilt}[form](root, task, found)
    return spec(root, task, form, options)


def spec(root: Path, task: str, form: Format, options: Options = ()) -> TaskSpec:
    files = files_of(task, form, dict(options))
    return TaskSpec(name=task, data=fingerprint(root, files), options=options)


def opened(root: Path, task: str, form: Format, options: Options = ()) -> Data:
    """The data below `root`, as it lies there now."""
    task_spec = spec(root, task, form, options)
    size, patch = (64, 32) if form == "vilt" else (0, 0)
    return open_data(root, root / "cache", task_spec, form, image_size=size, patch_size=patch)


def regions(number: int, count: int) -> dict[str, np.ndarray]:
    """Of an image, distinct in every number that float16 tells apart; boxes inside the image."""
    chance = np.random.default_rng(number)
    corners = np.sort(chance.random((count, 2, 2), np.float32), axis=1).reshape(count, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return {
        "features": chance.standard_normal((count, WIDTH), np.float32),
        "norm_bb": np.concatenate([corners, sides], axis=1),
        "conf": np.linspace(0.9, 0.3, count, dtype=np.float32),
        "soft_labels": chance.dirichlet(np.ones(CLASSES), count).astype(np.float32),
    }


def picture(number: int, width: int = 48, height: int = 32) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, format="PNG")
        return stream.getvalue()


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * 3 + place) % len(WORDS)] for place in range(2 + number % 5))


# --- UNITER --------------------------------------------------------------------------------------


def _ids(number: int, length: int = 0) -> list[int]:
    return [106 + (number + 7 * place) % 190 for place in range(length or 2 + number % 6)]


def _targets(number: int, count: int) -> Record:
    if number % 4 == 3:
        return {"labels": [], "scores": []}
    labels = [number % count, (number + 1) % count]
    return {"labels": labels, "scores": [1.0, 0.3]}


def _region_names(database: str) -> list[str]:
    if database.endswith("re_coco_gt"):
        return [f"visual_grounding_coco_gt_{n:012}.npz" for n in range(IMAGES)]
    if database.endswith("re_coco_det"):
        return [f"visual_grounding_det_coco_{n:012}.npz" for n in range(IMAGES)]
    return [f"{Path(database).name}_{n}.npz" for n in range(IMAGES)]


def _text_record(task: str, part: Part, number: int) -> Record:
    names = [_region_names(images)[number % IMAGES] for images in part.images]
    record: Record = {"input_ids": _ids(number), "img_fname": names[0]}
    if task in ("vqa", "gqa", "snli_ve"):
        record["target"] = _targets(number, 3 if task == "snli_ve" else len(ANSWERS))
    elif task == "nlvr2":
        other = _region_names(part.images[0])[(number + 1) % IMAGES]
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
        place = number % 3
        record |= {
            "sent_id": number,
            "ref_id": number,
            "ann_id": 10 * (number % IMAGES) + place,
            "image_id": number % IMAGES,
            "bbox": [5.0 * place, 2.0, 10.0, 20.0],
        }
    return record


def _referring(records: Mapping[str, Record]) -> dict[str, Any]:
    """The refs are listed backwards, so that their order differs from that of the records."""
    refs = [{"ref_id": int(key), "sent_ids": [int(key)]} for key in reversed(list(records))]
    images = [
        {"id": n, "ann_ids": [10 * n + k for k in range(3)], "width": 100, "height": 80}
        for n in range(IMAGES)
    ]
    return {"refs": refs, "annotations": [], "categories": [], "images": images}


def text_records(task: str, part: Part) -> dict[str, Record]:
    start = 100 * sum(part.texts.encode())
    numbers = range(start, start + EXAMPLES)
    return {str(n): _text_record(task, part, n - start) for n in numbers}


def _uniter(root: Path, task: str, found: Layout) -> None:
    for part in (*found.train, *found.held_out):
        for database in part.images:
            write_regions(root / database)
        records = text_records(task, part)
        referring = _referring(records) if task == "refcoco" else None
        write_text_db(root / part.texts, records.items(), meta=META, referring=referring)
    if found.answers:
        labels = {answer: label for label, answer in enumerate(ANSWERS)}
        write_json(root / found.answers, labels)


def write_regions(folder: Path, *, compressed: bool = False) -> None:
    if not folder.exists():
        boxes = boxes_of(folder.name)
        count = 3 if folder.name == "re_coco_gt" else 12
        images = (
            (name, regions(n, count + (n if count > 3 else 0)))
            for n, name in enumerate(_region_names(str(folder)))
        )
        write_image_db(folder, images, boxes=boxes, compressed=compressed)


# --- LXMERT --------------------------------------------------------------------------------------


def tsv_image(number: int) -> Record:
    found = regions(number, 36)
    scale = np.array([640, 480, 640, 480], np.float32)
    return {
        "img_id": f"image_{number}",
        "img_h": 480,
        "img_w": 640,
        "objects_id": np.arange(36),
        "objects_conf": found["conf"],
        "attrs_id": np.arange(36),
        "attrs_conf": found["conf"],
        "boxes": found["norm_bb"][:, :4] * scale,
        "features": found["features"],
    }


def entries(task: str) -> Iterator[Record]:
    for number in range(EXAMPLES):
        entry: Record = {"sent": sentence(number)}
        if task == "nlvr2":
            images = {f"img{n}": f"image_{(number + n) % IMAGES}" for n in range(2)}
            entry |= {"identifier": f"dev-{number}-0-0", "label": number % 2, **images}
        else:
            answer = ANSWERS[number % len(ANSWERS)]
            label = {answer: 1.0} if task == "gqa" else {answer: 0.6, ANSWERS[0]: 1}
            entry |= {"question_id": number, "img_id": f"image_{number % IMAGES}", "label": label}
        yield entry


def _lxmert(root: Path, task: str, found: Layout) -> None:
    for part in (*found.train, *found.held_out):
        # The last image is no example's.
        write_tsv(root / part.images[0], (tsv_image(n) for n in range(IMAGES + 1)))
        write_list(root / part.texts, entries(task))
    if found.answers:
        write_answers((root / found.answers).parent, ANSWERS)
    _vocabulary(root / found.vocabulary)


def _vocabulary(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(VOCAB) + "\n")


# --- ViLT ----------------------------------------------------------------------------------------


def _vqa_rows(stem: str) -> Iterator[Record]:
    for row in range(IMAGES):
        numbers = [3 * row + n for n in range(3)]
        labels = [[n % len(ANSWERS)] for n in numbers]
        yield {
            "image": picture(row),
            "questions": [sentence(n) for n in numbers],
            "answers": [[ANSWERS[label] for label in each] for each in labels],
            "answer_labels": labels,
            "answer_scores": [[0.9] for _ in numbers],
            "image_id": row,
            "question_id": numbers,
            "split": stem,
        }


def _nlvr2_rows(stem: str) -> Iterator[Record]:
    for row in range(IMAGES):
        yield {
            "image_0": picture(row),
            "image_1": picture(100 + row, width=32, height=64),
            "questions": [sentence(row), sentence(row + 1)],
            "answers": ["True", "False"],
            "identifier": f"dev-{row}-0",
        }


def _snli_rows(stem: str) -> Iterator[Record]:
    for row in range(IMAGES):
        pairs = [[sentence(row + 7), sentence(row + n)] for n in range(2)]
        yield {"image": picture(row), "sentences": pairs, "labels": [row % 3, (row + 1) % 3]}


def _caption_rows(stem: str) -> Iterator[Record]:
    for row in range(IMAGES):
        captions = [sentence(row), sentence(row + 1), sentence(row)]
        yield {"image": picture(row), "caption": captions, "image_id": f"{row}.jpg", "split": stem}


ROWS: Mapping[str, tuple[Any, Callable[[str], Iterator[Record]]]] = {
    "vqa": ("vqa", _vqa_rows),
    "nlvr2": ("nlvr2", _nlvr2_rows),
    "snli_ve": ("snli", _snli_rows),
    "retrieval": ("caption", _caption_rows),
}


def _vilt(root: Path, task: str, found: Layout) -> None:
    kind, rows = ROWS[task]
    for part in (*found.train, *found.held_out):
        write_table(root / part.texts, kind, rows(Path(part.texts).stem))
    _vocabulary(root / found.vocabulary)
