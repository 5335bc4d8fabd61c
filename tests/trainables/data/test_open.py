"""Reading examples from published files, for every task and format."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import published_files
from tests.support.published_files import (
    LAYOUTS,
    NUM_EXAMPLES,
    NUM_IMAGES,
    PUBLISHED_ANSWERS,
    UNITER_META,
    make_regions,
    make_sentence,
    read_task_data,
)
from trainables.data.formats import resolve_layout, task_files
from trainables.data.formats.json_stream import write_json, write_list
from trainables.data.formats.lxmert.tsv import write_answers
from trainables.data.formats.uniter.lmdb import write_text_db
from trainables.data.formats.vilt.arrow import write_table
from trainables.data.formats.vilt.reader import resize_image
from trainables.data.open import open_data
from trainables.data.reference import LocalData
from trainables.data.schema.examples import Data, Pixels, Ragged, Regions, Split
from trainables.errors import DataError
from trainables.spec import Options, TaskSpec
from trainables.tasks import TASKS

TASKS_AND_FORMATS = list(LAYOUTS)


def write_and_open(root: Path, task: str, file_format: str, options: Options = ()) -> Data:
    published_files.write_task(root, task, file_format, options)
    return read_task_data(root, task, file_format, options)


def rows(values: Ragged, numbers: Any = None) -> list[list[Any]]:
    index = np.arange(len(values)) if numbers is None else np.asarray(numbers)
    return [row.tolist() for row in values.rows(index)]


def approx_rows(values: list[list[float]]) -> list[Any]:
    return [pytest.approx(row, rel=1e-6) for row in values]


def records(task: str, split: str) -> list[tuple[str, dict[str, Any]]]:
    layout = LAYOUTS[task, "uniter"]
    split_files = layout.train if split == "train" else layout.held_out
    return [
        pair for files in split_files for pair in published_files.text_records(task, files).items()
    ]


def splits(data: Data) -> list[tuple[str, Split]]:
    return [("train", data.train), ("held_out", data.held_out)]


@pytest.mark.parametrize(("task", "file_format"), TASKS_AND_FORMATS, ids=lambda files: files)
def test_the_fields_of_a_split_are_consistent(tmp_path: Path, task: str, file_format: str) -> None:
    data = write_and_open(tmp_path, task, file_format)
    for _, split in splits(data):
        count = len(split)
        assert len(split.keys) == len(split.labels) == len(split.scores) == count > 0
        assert len(split.texts) == count * LAYOUTS[task, file_format].example.texts
        assert len(set(split.keys)) == count or file_format in ("lxmert", "vilt")
        for ids in rows(split.texts):
            assert (ids[0], ids[-1]) == (data.vocabulary.cls, data.vocabulary.sep)
            assert max(ids) < data.vocabulary.size
        # Each image that an example names is stored once, and no others.
        assert sorted(set(split.images.ravel().tolist())) == list(range(len(split.image_data)))
        assert split.texts.values[0].dtype == split.images.dtype == np.int32
        if isinstance(split.image_data, Regions):
            assert file_format != "vilt"
            assert split.image_data.features.values[0].dtype == np.float16
            assert split.image_data.boxes.width == (7,)
            assert (split.image_data.classes is not None) == (task == "pretraining")
        else:
            assert split.image_data.pixels.values[0].dtype == np.uint8
            np.testing.assert_array_equal(
                split.image_data.pixels.lengths(), split.image_data.sizes.prod(axis=1)
            )


@pytest.mark.parametrize("task", ["vqa", "gqa", "snli_ve"])
def test_uniter_answers_are_as_written(tmp_path: Path, task: str) -> None:
    data = write_and_open(tmp_path, task, "uniter")
    for name, split in splits(data):
        written = records(task, name)
        assert list(split.keys) == [key for key, _ in written]
        assert rows(split.texts) == [[101, *record["input_ids"], 102] for _, record in written]
        assert rows(split.labels) == [record["target"]["labels"] for _, record in written]
        assert rows(split.scores) == approx_rows(
            [record["target"]["scores"] for _, record in written]
        )
    expected = (
        ("contradiction", "entailment", "neutral") if task == "snli_ve" else PUBLISHED_ANSWERS
    )
    assert data.answers == expected
    assert (data.vocabulary.first, data.vocabulary.size) == tuple(UNITER_META["v_range"])


def test_uniter_regions_are_as_written(tmp_path: Path) -> None:
    data = write_and_open(tmp_path, "vqa", "uniter")
    for name, split in splits(data):
        for example, (_, record) in enumerate(records("vqa", name)):
            number = int(record["img_fname"].split("_")[-1].removesuffix(".npz"))
            written = make_regions(number, 12 + number)
            row = split.images[example]
            assert isinstance(split.image_data, Regions)
            (features,) = split.image_data.features.rows(row)
            np.testing.assert_array_equal(features, written["features"].astype(np.float16))
            (boxes,) = split.image_data.boxes.rows(row)
            norm_bb = written["norm_bb"].astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(boxes[:, :6], norm_bb)
            np.testing.assert_array_equal(boxes[:, 6], norm_bb[:, 4] * norm_bb[:, 5])


def test_pretraining_has_the_classes_of_the_detector(tmp_path: Path) -> None:
    split = write_and_open(tmp_path, "pretraining", "uniter").train
    assert isinstance(split.image_data, Regions)
    assert split.image_data.classes is not None
    (actual,) = split.image_data.classes.rows(split.images[3])
    np.testing.assert_array_equal(actual, make_regions(3, 15)["soft_labels"].astype(np.float16))
    assert rows(split.labels) == rows(split.scores) == [[]] * len(split)


def test_pretraining_reads_the_chosen_corpora(tmp_path: Path) -> None:
    options = (("blind", False), ("corpora", "vg+coco"))
    data = write_and_open(tmp_path, "pretraining", "uniter", options)
    assert (len(data.train), len(data.held_out)) == (3 * NUM_EXAMPLES, 2 * NUM_EXAMPLES)
    with pytest.raises(DataError, match="corpora = 'coco\\+flickr'; give some of coco, vg, cc"):
        task_files("pretraining", "uniter", {"corpora": "coco+flickr"})


@pytest.mark.parametrize("file_format", ["uniter", "lxmert", "vilt"])
def test_nlvr2_has_two_images(tmp_path: Path, file_format: str) -> None:
    data = write_and_open(tmp_path, "nlvr2", file_format)
    labels = [[1], [0]] * NUM_IMAGES if file_format == "vilt" else [[0], [1]] * (NUM_EXAMPLES // 2)
    for _, split in splits(data):
        assert split.images.shape == (len(labels), 2)
        assert (split.images[:, 0] != split.images[:, 1]).all()
        assert rows(split.labels) == labels
        assert rows(split.scores) == [[1.0]] * len(labels)
    assert data.answers == ("False", "True")


def test_vcr_drops_long_texts_by_the_lengths_of_each_subtask(tmp_path: Path) -> None:
    """As UNITER's `VcrTxtTokLmdb` does, with `id2len_qa` for Q->A and `id2len_qar` for QA->R."""
    published_files.write_task(tmp_path, "vcr", "uniter")
    folder = tmp_path / "uniter/txt_db/vcr_train.db"
    # As written: four times the question with the longest answer; the longest rationale once.
    keys, q_a, qa_r = [], {}, {}
    for key, record in records("vcr", "train"):
        keys.append(key)
        words = len(record["input_ids"]) + max(map(len, record["input_ids_as"]))
        q_a[key] = 4 * words
        qa_r[key] = 4 * words + max(map(len, record["input_ids_rs"]))
    assert json.loads((folder / "id2len_qa.json").read_text()) == q_a
    assert json.loads((folder / "id2len_qar.json").read_text()) == qa_r
    # 220 is the published limit.
    write_json(folder / "id2len_qa.json", q_a | {keys[0]: 220, keys[1]: 221, keys[2]: 220})
    write_json(folder / "id2len_qar.json", qa_r | {keys[0]: 220, keys[1]: 230, keys[2]: 221})
    val = tmp_path / "uniter/txt_db/vcr_val.db"
    lengths = json.loads((val / "id2len_qa.json").read_text())
    write_json(val / "id2len_qa.json", dict.fromkeys(lengths, 999))
    data = read_task_data(tmp_path, "vcr", "uniter")
    assert list(data.train.keys) == [keys[0], *keys[2:]]
    assert rows(data.train.scores) == [[1, 1], [1, 0]] + [[1, 1]] * (len(keys) - 3)
    assert rows(data.held_out.scores) == [[1, 1]] * len(lengths)


def test_vcr_has_four_answers_and_four_rationales(tmp_path: Path) -> None:
    split = write_and_open(tmp_path, "vcr", "uniter").train
    assert split.token_types is not None
    for example, (_, record) in enumerate(records("vcr", "train")):
        texts = rows(split.texts, range(8 * example, 8 * example + 8))
        types = rows(split.token_types, range(8 * example, 8 * example + 8))
        q, right = record["input_ids"], record["qa_target"]
        for i, answer in enumerate(record["input_ids_as"]):
            assert texts[i] == [101, *q, 102, *answer, 102]
            assert types[i] == [0, *[0] * len(q), 2, *[2] * len(answer), 2]
        answer = record["input_ids_as"][right]
        for i, rationale in enumerate(record["input_ids_rs"], 4):
            assert texts[i] == [101, *q, 102, *answer, 102, *rationale, 102]
            assert types[i] == [0, *[0] * len(q), 2, *[2] * len(answer)] + [3] * (
                len(rationale) + 2
            )
        assert rows(split.labels, [example]) == [[right, record["qar_target"]]]
        number = example % NUM_IMAGES
        assert isinstance(split.image_data, Regions)
        # The annotated boxes (here also 12 + n), then the detected ones.
        half = make_regions(number, 12 + number)["features"].astype(np.float16)
        (actual,) = split.image_data.features.rows(split.images[example])
        np.testing.assert_array_equal(actual, np.concatenate([half, half]))


def test_refcoco_trains_on_annotated_boxes_and_evaluates_on_detected_ones(tmp_path: Path) -> None:
    data = write_and_open(tmp_path, "refcoco", "uniter")
    for name, split in splits(data):
        written = records("refcoco", name)[::-1]  # in the order of refs.json
        assert list(split.keys) == [key for key, _ in written]
        targets = [[record["ann_id"] % 10] for _, record in written]
        assert rows(split.labels) == (targets if name == "train" else [[]] * len(written))
        boxes = [[*record["bbox"], 100.0, 80.0] for _, record in written]
        assert rows(split.scores) == boxes
        assert isinstance(split.image_data, Regions)
        numbers = [record["image_id"] for _, record in written]
        counts = [3 if name == "train" else 12 + n for n in numbers]
        assert split.image_data.features.lengths()[split.images[:, 0]].tolist() == counts


@pytest.mark.parametrize("task", ["vqa", "gqa"])
def test_lxmert_questions_are_as_written(tmp_path: Path, task: str) -> None:
    data = write_and_open(tmp_path, task, "lxmert")
    split = data.held_out
    written = list(published_files.lxmert_entries(task))
    assert list(split.keys) == [str(entry["question_id"]) for entry in written]
    assert rows(split.labels) == [
        [PUBLISHED_ANSWERS.index(a) for a in entry["label"]] for entry in written
    ]
    assert rows(split.scores) == approx_rows([list(entry["label"].values()) for entry in written])
    words = {word: number for number, word in enumerate(published_files.VOCAB)}
    assert rows(split.texts) == [
        [2, *[words[word] for word in entry["sent"].split()], 3] for entry in written
    ]
    assert isinstance(split.image_data, Regions)
    image = published_files.tsv_image(4)
    (actual,) = split.image_data.features.rows(split.images[4])
    np.testing.assert_array_equal(actual, image["features"].astype(np.float16))
    (boxes,) = split.image_data.boxes.rows(split.images[4])
    corners = image["boxes"] / [640, 480, 640, 480]
    np.testing.assert_allclose(boxes[:, :4], corners, rtol=1e-6)
    sides = corners[:, 2:] - corners[:, :2]
    np.testing.assert_allclose(boxes[:, 4:6], sides, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(boxes[:, 6], sides.prod(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "file_format", "longest"), [("vqa", "lxmert", 20), ("vqa", "vilt", 40)]
)
def test_long_sentences_are_truncated(
    tmp_path: Path, task: str, file_format: str, longest: int
) -> None:
    published_files.write_task(tmp_path, task, file_format)
    words = " ".join(["what is"] * longest)
    if file_format == "lxmert":
        entry = next(published_files.lxmert_entries(task)) | {"sent": f"  {words} "}
        write_list(tmp_path / "lxmert/vqa/minival.json", [entry])
    else:
        row = next(published_files.ROWS[task][1]("x")) | {"questions": [words] * 3}
        write_table(tmp_path / "vilt/vqav2_rest_val.arrow", "vqa", [row])
    first = rows(read_task_data(tmp_path, task, file_format).held_out.texts)[0]
    assert len(first) == longest
    assert (first[0], first[1:-1], first[-1]) == (2, [6, 7] * (longest // 2 - 1), 3)


def test_uniter_drops_long_texts_in_training_only(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "vqa", "uniter")
    for files in (
        *resolve_layout("vqa", "uniter", {}).train[:1],
        *resolve_layout("vqa", "uniter", {}).held_out,
    ):
        written = published_files.text_records("vqa", files)
        for length, key in zip((60, 61), list(written)[3:5], strict=True):
            written[key]["input_ids"] = [110] * length
        folder = tmp_path / files.texts
        folder.rename(tmp_path / f"old {folder.name}")
        write_text_db(folder, written.items(), meta=UNITER_META)
    data = read_task_data(tmp_path, "vqa", "uniter")
    assert len(data.train) == 3 * NUM_EXAMPLES - 1
    assert int(data.train.texts.lengths().max()) == 62
    assert int(data.held_out.texts.lengths().max()) == 63


def test_labels_follow_the_order_of_the_answers_file(tmp_path: Path) -> None:
    """The same answers in another order give other labels with the same names."""
    for turn, order in enumerate((PUBLISHED_ANSWERS, PUBLISHED_ANSWERS[::-1])):
        root = tmp_path / str(turn)
        published_files.write_task(root, "vqa", "lxmert")
        write_answers(root / "lxmert/vqa", order)
        data = read_task_data(root, "vqa", "lxmert")
        assert data.answers == order
        named = [[data.answers[label] for label in labels] for labels in rows(data.train.labels)]
        assert named[:NUM_EXAMPLES] == [
            list(entry["label"]) for entry in published_files.lxmert_entries("vqa")
        ]


def test_vilt_texts_images_and_answers(tmp_path: Path) -> None:
    data = write_and_open(tmp_path, "vqa", "vilt")
    written = list(published_files.ROWS["vqa"][1]("x"))
    split = data.held_out
    assert list(split.keys) == [str(key) for row in written for key in row["question_id"]]
    assert rows(split.labels) == [label for row in written for label in row["answer_labels"]]
    assert split.images[:, 0].tolist() == [n for n in range(NUM_IMAGES) for _ in range(3)]
    assert isinstance(split.image_data, Pixels)
    for number, row in enumerate(written):
        with Image.open(io.BytesIO(row["image"])) as image:
            expected = np.asarray(image.resize((96, 64), Image.Resampling.BICUBIC))
        (actual,) = split.image_data.pixels.rows(np.array([number]))
        np.testing.assert_array_equal(actual.reshape(64, 96, 3), expected)
        assert split.image_data.sizes[number].tolist() == [64, 96]
    assert data.answers == PUBLISHED_ANSWERS


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(640, 480, (384, 512)), (480, 640, (512, 384)), (1000, 300, (192, 608)), (32, 32, (384, 384))],
)
def test_images_are_resized_as_published(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    """608 is 1333/800 of 384, rounded down to a multiple of 32."""
    actual = resize_image(Image.new("RGB", (width, height)), 384, 32)
    assert tuple(actual["size"].tolist()) == expected
    assert actual["pixels"].shape == (expected[0] * expected[1], 3)


def test_snli_ve_labels_differ_between_the_formats(tmp_path: Path) -> None:
    vilt = write_and_open(tmp_path, "snli_ve", "vilt")
    uniter = write_and_open(tmp_path, "snli_ve", "uniter")
    assert sorted(vilt.answers) == sorted(uniter.answers)
    assert vilt.answers != uniter.answers
    written = list(published_files.ROWS["snli_ve"][1]("x"))
    assert rows(vilt.train.labels) == [[label] for row in written for label in row["labels"]]
    words = {word: number for number, word in enumerate(published_files.VOCAB)}
    hypothesis = written[2]["sentences"][1][1].split()
    assert rows(vilt.train.texts)[5] == [2, *[words[word] for word in hypothesis], 3]


@pytest.mark.parametrize("file_format", ["uniter", "vilt"])
def test_retrieval_reads_the_chosen_split(tmp_path: Path, file_format: str) -> None:
    published_files.write_task(tmp_path, "retrieval", file_format)
    with pytest.raises(DataError, match=r"has no file that matches .*test"):
        read_task_data(tmp_path, "retrieval", file_format, (("split", "test"),))
    if file_format == "vilt":
        row = next(published_files.ROWS["retrieval"][1]("test"))
        write_table(tmp_path / "vilt/f30k_caption_karpathy_test.arrow", "caption", [row])
        data = read_task_data(tmp_path, "retrieval", file_format, (("split", "test"),))
        # Three captions, one of them twice.
        assert list(data.held_out.keys) == ["0.jpg#0", "0.jpg#1"]
        assert len(data.held_out.image_data) == 1


def test_unknown_answers_of_gqa_are_dropped(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "gqa", "lxmert")
    entry = next(published_files.lxmert_entries("gqa")) | {"label": {"a unicorn": 1.0}}
    write_list(tmp_path / "lxmert/gqa/testdev.json", [entry])
    data = read_task_data(tmp_path, "gqa", "lxmert")
    assert rows(data.held_out.labels) == rows(data.held_out.scores) == [[]]


def test_the_fingerprint_covers_only_the_files_of_the_task(tmp_path: Path) -> None:
    for task, file_format in TASKS_AND_FORMATS:
        published_files.write_task(tmp_path, task, file_format)
        before = published_files.task_spec(tmp_path, task, file_format)
        (tmp_path / file_format / "unrelated.txt").write_text(task)
        assert published_files.task_spec(tmp_path, task, file_format) == before


def test_options_that_select_files_have_one_default() -> None:
    """Both the table of tasks and the table of files have it."""
    for (task, _), layout in LAYOUTS.items():
        assert layout.options.items() <= TASKS[task].options.items()


def test_a_task_without_data_in_a_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="vcr: has no data in the format lxmert; formats with: uniter"
    ):
        task_files("vcr", "lxmert", {})
    spec = TaskSpec(name="refcoco", data="0" * 64)
    with pytest.raises(DataError, match="refcoco: has no data in the format vilt"):
        open_data(LocalData(tmp_path), tmp_path, spec, "vilt", image_size=32, patch_size=32)


def test_sentences_are_lower_cased_and_split_into_word_pieces(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "nlvr2", "lxmert")
    entry = next(published_files.lxmert_entries("nlvr2")) | {"sent": "What is the  BALLs?"}
    write_list(tmp_path / "lxmert/nlvr2/valid.json", [entry])
    words = {word: number for number, word in enumerate(published_files.VOCAB)}
    pieces = [words[word] for word in ("what", "is", "the", "ball", "##s", "?")]
    assert rows(read_task_data(tmp_path, "nlvr2", "lxmert").held_out.texts) == [[2, *pieces, 3]]
    assert make_sentence(0).split()[0] in words
