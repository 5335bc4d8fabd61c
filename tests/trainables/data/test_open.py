"""From published files to examples, for every task and format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import published_files as published
from tests.support.published_files import (
    ANSWERS,
    EXAMPLES,
    IMAGES,
    META,
    opened,
    regions,
    sentence,
)
from trainables.data.formats.json_stream import write_list
from trainables.data.formats.lxmert.tsv import write_answers
from trainables.data.formats.uniter.lmdb import write_text_db
from trainables.data.formats.vilt.arrow import write_table
from trainables.data.formats.vilt.reader import resized
from trainables.data.open import open_data
from trainables.data.schema.examples import Data, Pixels, Ragged, Regions, Split
from trainables.data.schema.layouts import LAYOUTS, files_of, layout
from trainables.errors import DataError
from trainables.models import Format
from trainables.spec import Options, TaskSpec
from trainables.tasks import TASKS

CELLS = list(LAYOUTS)
BY_FORM = {form: [task for task, each in CELLS if each == form] for _, form in CELLS}


def written(root: Path, task: str, form: Format, options: Options = ()) -> Data:
    published.write(root, task, form, options)
    return opened(root, task, form, options)


def rows(values: Ragged, numbers: Any = None) -> list[list[Any]]:
    wanted = np.arange(len(values)) if numbers is None else np.asarray(numbers)
    return [row.tolist() for row in values.rows(wanted)]


def near(values: list[list[float]]) -> list[Any]:
    return [pytest.approx(row, rel=1e-6) for row in values]


def records(task: str, split: str) -> list[tuple[str, dict[str, Any]]]:
    found = LAYOUTS[task, "uniter"]
    parts = found.train if split == "train" else found.held_out
    return [pair for part in parts for pair in published.text_records(task, part).items()]


def splits(data: Data) -> list[tuple[str, Split]]:
    return [("train", data.train), ("held_out", data.held_out)]


@pytest.mark.parametrize(("task", "form"), CELLS, ids=lambda part: part)
def test_every_cell_fits_together(tmp_path: Path, task: str, form: Format) -> None:
    data = written(tmp_path, task, form)
    for _, split in splits(data):
        count = len(split)
        assert len(split.keys) == len(split.labels) == len(split.scores) == count > 0
        assert len(split.texts) == count * LAYOUTS[task, form].texts
        assert len(set(split.keys)) == count or form in ("lxmert", "vilt")
        for ids in rows(split.texts):
            assert (ids[0], ids[-1]) == (data.vocabulary.cls, data.vocabulary.sep)
            assert max(ids) < data.vocabulary.size
        # Only what the examples name is kept, and each once.
        assert sorted(set(split.images.ravel().tolist())) == list(range(len(split.seen)))
        assert split.texts.values[0].dtype == split.images.dtype == np.int32
        if isinstance(split.seen, Regions):
            assert form != "vilt"
            assert split.seen.features.values[0].dtype == np.float16
            assert split.seen.boxes.width == (7,)
            assert (split.seen.classes is not None) == (task == "pretraining")
        else:
            assert split.seen.pixels.values[0].dtype == np.uint8
            np.testing.assert_array_equal(
                split.seen.pixels.lengths(), split.seen.sizes.prod(axis=1)
            )


@pytest.mark.parametrize("task", ["vqa", "gqa", "snli_ve"])
def test_uniter_answers_are_as_written(tmp_path: Path, task: str) -> None:
    data = written(tmp_path, task, "uniter")
    for name, split in splits(data):
        wrote = records(task, name)
        assert list(split.keys) == [key for key, _ in wrote]
        assert rows(split.texts) == [[101, *record["input_ids"], 102] for _, record in wrote]
        assert rows(split.labels) == [record["target"]["labels"] for _, record in wrote]
        assert rows(split.scores) == near([record["target"]["scores"] for _, record in wrote])
    expected = ("contradiction", "entailment", "neutral") if task == "snli_ve" else ANSWERS
    assert data.answers == expected
    assert (data.vocabulary.first, data.vocabulary.size) == tuple(META["v_range"])


def test_uniter_regions_are_as_written(tmp_path: Path) -> None:
    data = written(tmp_path, "vqa", "uniter")
    for name, split in splits(data):
        for example, (_, record) in enumerate(records("vqa", name)):
            number = int(record["img_fname"].split("_")[-1].removesuffix(".npz"))
            wrote = regions(number, 12 + number)
            row = split.images[example]
            assert isinstance(split.seen, Regions)
            (features,) = split.seen.features.rows(row)
            np.testing.assert_array_equal(features, wrote["features"].astype(np.float16))
            (boxes,) = split.seen.boxes.rows(row)
            places = wrote["norm_bb"].astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(boxes[:, :6], places)
            np.testing.assert_array_equal(boxes[:, 6], places[:, 4] * places[:, 5])


def test_pretraining_has_the_detectors_classes(tmp_path: Path) -> None:
    split = written(tmp_path, "pretraining", "uniter").train
    assert isinstance(split.seen, Regions)
    assert split.seen.classes is not None
    (found,) = split.seen.classes.rows(split.images[3])
    np.testing.assert_array_equal(found, regions(3, 15)["soft_labels"].astype(np.float16))
    assert rows(split.labels) == rows(split.scores) == [[]] * len(split)


def test_pretraining_reads_the_chosen_corpora(tmp_path: Path) -> None:
    options = (("blind", False), ("corpora", "vg+coco"))
    data = written(tmp_path, "pretraining", "uniter", options)
    assert (len(data.train), len(data.held_out)) == (3 * EXAMPLES, 2 * EXAMPLES)
    with pytest.raises(DataError, match="corpora = 'coco\\+flickr'; give some of coco, vg, cc"):
        files_of("pretraining", "uniter", {"corpora": "coco+flickr"})


@pytest.mark.parametrize("form", ["uniter", "lxmert", "vilt"])
def test_nlvr2_has_two_images(tmp_path: Path, form: Format) -> None:
    data = written(tmp_path, "nlvr2", form)
    labels = [[1], [0]] * IMAGES if form == "vilt" else [[0], [1]] * (EXAMPLES // 2)
    for _, split in splits(data):
        assert split.images.shape == (len(labels), 2)
        assert (split.images[:, 0] != split.images[:, 1]).all()
        assert rows(split.labels) == labels
        assert rows(split.scores) == [[1.0]] * len(labels)
    assert data.answers == ("False", "True")


def test_vcr_has_four_answers_and_four_rationales(tmp_path: Path) -> None:
    split = written(tmp_path, "vcr", "uniter").train
    assert split.kinds is not None
    for example, (_, record) in enumerate(records("vcr", "train")):
        texts = rows(split.texts, range(8 * example, 8 * example + 8))
        kinds = rows(split.kinds, range(8 * example, 8 * example + 8))
        q, right = record["input_ids"], record["qa_target"]
        for place, answer in enumerate(record["input_ids_as"]):
            assert texts[place] == [101, *q, 102, *answer, 102]
            assert kinds[place] == [0, *[0] * len(q), 2, *[2] * len(answer), 2]
        answer = record["input_ids_as"][right]
        for place, rationale in enumerate(record["input_ids_rs"], 4):
            assert texts[place] == [101, *q, 102, *answer, 102, *rationale, 102]
            assert kinds[place] == [0, *[0] * len(q), 2, *[2] * len(answer)] + [3] * (
                len(rationale) + 2
            )
        assert rows(split.labels, [example]) == [[right, record["qar_target"]]]
        number = example % IMAGES
        assert isinstance(split.seen, Regions)
        # The annotated boxes (here 12 + n too), then the detected ones.
        half = regions(number, 12 + number)["features"].astype(np.float16)
        (found,) = split.seen.features.rows(split.images[example])
        np.testing.assert_array_equal(found, np.concatenate([half, half]))


def test_refcoco_trains_on_annotated_and_is_scored_on_detected_boxes(tmp_path: Path) -> None:
    data = written(tmp_path, "refcoco", "uniter")
    for name, split in splits(data):
        wrote = records("refcoco", name)[::-1]  # in the order of refs.json
        assert list(split.keys) == [key for key, _ in wrote]
        targets = [[record["ann_id"] % 10] for _, record in wrote]
        assert rows(split.labels) == (targets if name == "train" else [[]] * len(wrote))
        boxes = [[*record["bbox"], 100.0, 80.0] for _, record in wrote]
        assert rows(split.scores) == boxes
        assert isinstance(split.seen, Regions)
        numbers = [record["image_id"] for _, record in wrote]
        counts = [3 if name == "train" else 12 + n for n in numbers]
        assert split.seen.features.lengths()[split.images[:, 0]].tolist() == counts


@pytest.mark.parametrize("task", ["vqa", "gqa"])
def test_lxmert_questions_are_as_written(tmp_path: Path, task: str) -> None:
    data = written(tmp_path, task, "lxmert")
    split = data.held_out
    wrote = list(published.entries(task))
    assert list(split.keys) == [str(entry["question_id"]) for entry in wrote]
    assert rows(split.labels) == [[ANSWERS.index(a) for a in entry["label"]] for entry in wrote]
    assert rows(split.scores) == near([list(entry["label"].values()) for entry in wrote])
    words = {word: number for number, word in enumerate(published.VOCAB)}
    assert rows(split.texts) == [
        [2, *[words[word] for word in entry["sent"].split()], 3] for entry in wrote
    ]
    assert isinstance(split.seen, Regions)
    image = published.tsv_image(4)
    (found,) = split.seen.features.rows(split.images[4])
    np.testing.assert_array_equal(found, image["features"].astype(np.float16))
    (boxes,) = split.seen.boxes.rows(split.images[4])
    corners = image["boxes"] / [640, 480, 640, 480]
    np.testing.assert_allclose(boxes[:, :4], corners, rtol=1e-6)
    sides = corners[:, 2:] - corners[:, :2]
    np.testing.assert_allclose(boxes[:, 4:6], sides, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(boxes[:, 6], sides.prod(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("task", "form", "longest"), [("vqa", "lxmert", 20), ("vqa", "vilt", 40)])
def test_long_sentences_are_cut(tmp_path: Path, task: str, form: Format, longest: int) -> None:
    published.write(tmp_path, task, form)
    words = " ".join(["what is"] * longest)
    if form == "lxmert":
        entry = next(published.entries(task)) | {"sent": f"  {words} "}
        write_list(tmp_path / "lxmert/vqa/minival.json", [entry])
    else:
        row = next(published.ROWS[task][1]("x")) | {"questions": [words] * 3}
        write_table(tmp_path / "vilt/vqav2_rest_val.arrow", "vqa", [row])
    first = rows(opened(tmp_path, task, form).held_out.texts)[0]
    assert len(first) == longest
    assert (first[0], first[1:-1], first[-1]) == (2, [6, 7] * (longest // 2 - 1), 3)


def test_uniter_leaves_long_texts_out_of_training_only(tmp_path: Path) -> None:
    published.write(tmp_path, "vqa", "uniter")
    for part in (*layout("vqa", "uniter", {}).train[:1], *layout("vqa", "uniter", {}).held_out):
        wrote = published.text_records("vqa", part)
        for length, key in zip((60, 61), list(wrote)[3:5], strict=True):
            wrote[key]["input_ids"] = [110] * length
        folder = tmp_path / part.texts
        folder.rename(tmp_path / f"old {folder.name}")
        write_text_db(folder, wrote.items(), meta=META)
    data = opened(tmp_path, "vqa", "uniter")
    assert len(data.train) == 3 * EXAMPLES - 1
    assert int(data.train.texts.lengths().max()) == 62
    assert int(data.held_out.texts.lengths().max()) == 63


def test_labels_follow_the_datas_own_order(tmp_path: Path) -> None:
    """The same answers, listed in another order, give other labels and the same names."""
    for turn, order in enumerate((ANSWERS, ANSWERS[::-1])):
        root = tmp_path / str(turn)
        published.write(root, "vqa", "lxmert")
        write_answers(root / "lxmert/vqa", order)
        data = opened(root, "vqa", "lxmert")
        assert data.answers == order
        named = [[data.answers[label] for label in labels] for labels in rows(data.train.labels)]
        assert named[:EXAMPLES] == [list(entry["label"]) for entry in published.entries("vqa")]


def test_vilt_texts_images_and_answers(tmp_path: Path) -> None:
    data = written(tmp_path, "vqa", "vilt")
    wrote = list(published.ROWS["vqa"][1]("x"))
    split = data.held_out
    assert list(split.keys) == [str(key) for row in wrote for key in row["question_id"]]
    assert rows(split.labels) == [label for row in wrote for label in row["answer_labels"]]
    assert split.images[:, 0].tolist() == [n for n in range(IMAGES) for _ in range(3)]
    assert isinstance(split.seen, Pixels)
    for number, row in enumerate(wrote):
        with Image.open(io.BytesIO(row["image"])) as image:
            expected = np.asarray(image.resize((96, 64), Image.Resampling.BICUBIC))
        (found,) = split.seen.pixels.rows(np.array([number]))
        np.testing.assert_array_equal(found.reshape(64, 96, 3), expected)
        assert split.seen.sizes[number].tolist() == [64, 96]
    assert data.answers == ANSWERS


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(640, 480, (384, 512)), (480, 640, (512, 384)), (1000, 300, (192, 608)), (32, 32, (384, 384))],
)
def test_images_are_resized_as_published(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    """608 is 1333/800 of 384, cut down to a multiple of 32."""
    found = resized(Image.new("RGB", (width, height)), 384, 32)
    assert tuple(found["size"].tolist()) == expected
    assert found["pixels"].shape == (expected[0] * expected[1], 3)


def test_snli_ve_labels_differ_between_the_formats(tmp_path: Path) -> None:
    vilt = written(tmp_path, "snli_ve", "vilt")
    uniter = written(tmp_path, "snli_ve", "uniter")
    assert sorted(vilt.answers) == sorted(uniter.answers)
    assert vilt.answers != uniter.answers
    wrote = list(published.ROWS["snli_ve"][1]("x"))
    assert rows(vilt.train.labels) == [[label] for row in wrote for label in row["labels"]]
    words = {word: number for number, word in enumerate(published.VOCAB)}
    hypothesis = wrote[2]["sentences"][1][1].split()
    assert rows(vilt.train.texts)[5] == [2, *[words[word] for word in hypothesis], 3]


@pytest.mark.parametrize("form", ["uniter", "vilt"])
def test_retrieval_reads_the_split_it_is_told(tmp_path: Path, form: Format) -> None:
    published.write(tmp_path, "retrieval", form)
    with pytest.raises(DataError, match=r"holds nothing like .*test"):
        opened(tmp_path, "retrieval", form, (("split", "test"),))
    if form == "vilt":
        row = next(published.ROWS["retrieval"][1]("test"))
        write_table(tmp_path / "vilt/f30k_caption_karpathy_test.arrow", "caption", [row])
        data = opened(tmp_path, "retrieval", form, (("split", "test"),))
        # Three captions, one of them twice.
        assert list(data.held_out.keys) == ["0.jpg#0", "0.jpg#1"]
        assert len(data.held_out.seen) == 1


def test_gqa_takes_an_answer_outside_the_vocabulary_as_none(tmp_path: Path) -> None:
    published.write(tmp_path, "gqa", "lxmert")
    entry = next(published.entries("gqa")) | {"label": {"a unicorn": 1.0}}
    write_list(tmp_path / "lxmert/gqa/testdev.json", [entry])
    data = opened(tmp_path, "gqa", "lxmert")
    assert rows(data.held_out.labels) == rows(data.held_out.scores) == [[]]


def test_the_paths_of_a_cell_are_what_its_fingerprint_covers(tmp_path: Path) -> None:
    for task, form in CELLS:
        published.write(tmp_path, task, form)
        before = published.spec(tmp_path, task, form)
        (tmp_path / form / "unrelated.txt").write_text(task)
        assert published.spec(tmp_path, task, form) == before


def test_options_that_choose_files_have_one_default() -> None:
    """The table of tasks and that of files each state it."""
    for (task, _), found in LAYOUTS.items():
        assert found.options.items() <= TASKS[task].options.items()


def test_a_task_without_data_in_a_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vcr: has no data in the format lxmert; tasks with: gqa"):
        files_of("vcr", "lxmert", {})
    spec = TaskSpec(name="refcoco", data="0" * 64)
    with pytest.raises(DataError, match="refcoco: has no data in the format vilt"):
        open_data(tmp_path, tmp_path, spec, "vilt", image_size=32, patch_size=32)


def test_sentences_are_lower_cased_and_split_into_pieces(tmp_path: Path) -> None:
    published.write(tmp_path, "nlvr2", "lxmert")
    entry = next(published.entries("nlvr2")) | {"sent": "What is the  BALLs?"}
    write_list(tmp_path / "lxmert/nlvr2/valid.json", [entry])
    words = {word: number for number, word in enumerate(published.VOCAB)}
    pieces = [words[word] for word in ("what", "is", "the", "ball", "##s", "?")]
    assert rows(opened(tmp_path, "nlvr2", "lxmert").held_out.texts) == [[2, *pieces, 3]]
    assert sentence(0).split()[0] in words
