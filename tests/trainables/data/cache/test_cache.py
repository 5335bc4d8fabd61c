"""The cache: built once, completely or not at all, in bounded memory, with reproducible bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support import published_files
from tests.support.outside_data import LINES, installed, write_lines
from tests.support.paths import ROOT
from trainables.data.cache import write as cache_write
from trainables.data.cache.build import open_cached
from trainables.data.open import load_data, open_data
from trainables.data.reference import LocalData
from trainables.data.schema.examples import Data, VocabularyInfo
from trainables.data.schema.records import Decode, ExampleRecord, ImageKey, SplitName
from trainables.errors import DataError
from trainables.spec import TaskSpec
from trainables.tasks.common import example_lengths

VOCABULARY = VocabularyInfo(pad=0, cls=1, sep=2, mask=3, unknown=4, first=5, size=9)


class Numbers:
    """A reader of `count` examples, each on an image of its own."""

    def __init__(self, count: int, width: int = 4, regions: int = 3) -> None:
        self.count, self.width, self.regions = count, width, regions

    def vocabulary(self) -> VocabularyInfo:
        return VOCABULARY

    def answers(self) -> tuple[str, ...]:
        return ("yes", "no")

    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        for n in range(self.count):
            yield ExampleRecord(
                key=f"{n}",
                file="file",
                texts=[[1, 5 + n % 4, 2]],
                images=(("file", n),),
                labels=[n % 2],
            )

    def images(self, split: SplitName, wanted: Any) -> Iterator[tuple[ImageKey, Decode]]:
        for n in reversed(range(self.count)):
            yield ("file", n), lambda n=n: self.image(n)

    def image(self, number: int) -> dict[str, np.ndarray]:
        features = np.full((self.regions, self.width), number % 100, np.float16)
        return {"features": features, "boxes": np.full((self.regions, 7), 0.5, np.float32)}

    def close(self) -> None:
        pass


def task(root: Path, file_format: str = "uniter") -> TaskSpec:
    return published_files.write_task(root, "nlvr2", file_format)


def opened(root: Path, cache: Path, spec: TaskSpec, file_format: str = "uniter") -> Data:
    """Open the data as a new process does."""
    size, patch = (64, 32) if file_format == "vilt" else (0, 0)
    return load_data(LocalData(root), cache, spec, file_format, image_size=size, patch_size=patch)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}


def test_a_second_opening_needs_no_published_file(tmp_path: Path) -> None:
    spec = task(tmp_path / "data")
    first = opened(tmp_path / "data", tmp_path / "cache", spec)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    second = opened(tmp_path / "data", tmp_path / "cache", spec)
    assert list(first.train.keys) == list(second.train.keys)
    other = TaskSpec(name="nlvr2", data="0" * 64)
    with pytest.raises(DataError, match="no such file or folder"):
        opened(tmp_path / "data", tmp_path / "cache", other)


def test_a_process_opens_the_data_once(tmp_path: Path) -> None:
    spec = task(tmp_path)
    first, second = (
        open_data(
            LocalData(tmp_path), tmp_path / "cache", spec, "uniter", image_size=0, patch_size=0
        )
        for _ in range(2)
    )
    assert first is second


def test_data_are_opened_again_by_another_version_of_the_reader(tmp_path: Path) -> None:
    write_lines(tmp_path)
    data, opened_by = LocalData(tmp_path), []
    files = ("lines/train.jsonl", "lines/val.jsonl", "lines/images.jsonl")
    spec = TaskSpec(name="vqa", data=data.fingerprint(files), format="lines")
    for module in (LINES, replace(LINES, text=f"{LINES.text}\n# changed")):
        with installed(module):
            opened_by.append(
                open_data(data, tmp_path / "cache", spec, "lines", image_size=0, patch_size=0)
            )
    assert opened_by[0] is not opened_by[1]


def test_data_other_than_planned_is_refused(tmp_path: Path) -> None:
    spec = task(tmp_path / "data")
    planned = TaskSpec(name="nlvr2", data="1" * 64)
    with pytest.raises(DataError, match=f"has the fingerprint {spec.data[:12]}, .* 111111111111"):
        opened(tmp_path / "data", tmp_path / "cache", planned)
    assert not list((tmp_path / "cache").glob("nlvr2-uniter-*.unfinished"))


@pytest.mark.parametrize("file_format", ["uniter", "lxmert", "vilt"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, file_format: str) -> None:
    spec = task(tmp_path / "data", file_format)
    cpus = os.sched_getaffinity(0)
    opened(tmp_path / "data", tmp_path / "a", spec, file_format)
    try:
        os.sched_setaffinity(0, {min(cpus)})
        opened(tmp_path / "data", tmp_path / "b", spec, file_format)
    finally:
        os.sched_setaffinity(0, cpus)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 10)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("name", ["manifest.json", "train.images.arrow", "held_out.examples.arrow"])
@pytest.mark.parametrize("damage", [truncated, emptied, foreign, Path.unlink])
def test_a_damaged_cache_is_built_again(tmp_path: Path, name: str, damage: Any) -> None:
    spec = task(tmp_path / "data")
    opened(tmp_path / "data", tmp_path / "cache", spec)
    before = content(tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    damage(file)
    opened(tmp_path / "data", tmp_path / "cache", spec)
    assert content(tmp_path / "cache") == before


def test_a_cache_of_another_version_is_built_again(tmp_path: Path) -> None:
    spec = task(tmp_path / "data")
    opened(tmp_path / "data", tmp_path / "cache", spec)
    (file,) = (tmp_path / "cache").glob("*/manifest.json")
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | {"version": 0}))
    opened(tmp_path / "data", tmp_path / "cache", spec)
    assert file.read_text() == before


def test_the_files_of_a_killed_builder_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "numbers"
    (folder.parent / "numbers.unfinished").mkdir(parents=True)
    (folder.parent / "numbers.unfinished" / "train.images.arrow").write_bytes(b"half")
    folder.write_text("a file in place of the folder")
    data = open_cached(folder, tmp_path, lambda: Numbers(5))
    assert list(data.train.keys) == ["0", "1", "2", "3", "4"]
    assert not (folder.parent / "numbers.unfinished").exists()


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken(Numbers):
        def image(self, number: int) -> dict[str, np.ndarray]:
            if number == 2:
                raise DataError("file: 2 is damaged; advice")
            return super().image(number)

    folder = tmp_path / "numbers"
    with pytest.raises(DataError, match="2 is damaged"):
        open_cached(folder, tmp_path, lambda: Broken(5))
    assert [file.name for file in tmp_path.iterdir()] == ["numbers.lock"]
    assert len(open_cached(folder, tmp_path, lambda: Numbers(5)).train) == 5


def test_images_of_two_kinds_are_refused(tmp_path: Path) -> None:
    class Mixed(Numbers):
        def image(self, number: int) -> dict[str, np.ndarray]:
            return Numbers(3, width=5 if number == 1 else 4).image(number)

    with pytest.raises(DataError, match=r"file: 1 is features float16 5.*first image is .* 4"):
        open_cached(tmp_path / "numbers", tmp_path, lambda: Mixed(3))


def test_examples_refer_to_images_in_the_readers_order(tmp_path: Path) -> None:
    split = open_cached(tmp_path / "numbers", tmp_path, lambda: Numbers(7)).train
    features = split.image_data.features.rows(split.images[:, 0])  # type: ignore[union-attr]
    assert [int(each[0, 0]) for each in features] == list(range(7))


def test_batches_form_one_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_write, "BATCH_BYTES", 500)
    monkeypatch.setattr(cache_write, "_EXAMPLES_PER_BATCH", 16)
    split = open_cached(tmp_path / "numbers", tmp_path, lambda: Numbers(100)).train
    assert len(split.image_data.features.values) > 10  # type: ignore[union-attr]
    assert len(split.texts.values) == 7
    assert split.keys[-1] == "99"
    assert split.keys[15:18] == ["15", "16", "17"]
    assert [each.tolist() for each in split.labels.rows(np.array([98, 17]))] == [[0], [1]]
    with pytest.raises(IndexError):
        split.keys[100]


def test_memory_is_bounded_by_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write 128 MiB of features in batches of 1 MiB; numpy and Arrow peaks together are bounded."""
    monkeypatch.setattr(cache_write, "BATCH_BYTES", 2**20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})  # each core decodes in advance
    reader = Numbers(512, width=2048, regions=32)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        data = open_cached(tmp_path / "numbers", tmp_path, lambda: reader)
        peak = tracemalloc.get_traced_memory()[1]
        rows = np.arange(16)
        batch, _ = data.train.image_data.features.padded(rows)  # type: ignore[union-attr]
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(file.stat().st_size for file in (tmp_path / "numbers").glob("*.images.arrow"))
    assert size > 2**27
    assert peak < 2**24
    assert reading < 2**24 + batch.nbytes
    assert pool.bytes_allocated() - before < 2**20


OPEN = """
import hashlib, sys, time
from pathlib import Path
from trainables.data.open import open_data
from trainables.data.reference import LocalData
from trainables.spec import TaskSpec
root, start = Path(sys.argv[1]), float(sys.argv[3])
spec = TaskSpec(name="nlvr2", data=sys.argv[2])
time.sleep(max(0.0, start - time.time()))
data = open_data(LocalData(root), root / "cache", spec, "vilt", image_size=64, patch_size=32)
digest = hashlib.sha256("".join(data.train.keys).encode())
for chunk in data.train.image_data.pixels.values:
    digest.update(chunk.tobytes())
print(digest.hexdigest())
"""


def test_concurrent_processes_build_the_cache_once(tmp_path: Path) -> None:
    import time

    spec = task(tmp_path, "vilt")
    start = str(time.time() + 2.5)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(tmp_path), spec.data, start],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    built = {file.stat().st_ctime_ns for file in folder.glob("*.arrow")}
    opened(tmp_path, tmp_path / "cache", spec, "vilt")
    assert {file.stat().st_ctime_ns for file in folder.glob("*.arrow")} == built


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written \(.*\); choose another cache"):
        open_cached(tmp_path / "cache" / "numbers", tmp_path, lambda: Numbers(2))


def test_opening_a_built_cache_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    """They would take most of a second in each new process."""
    spec = task(tmp_path, "vilt")
    opened(tmp_path, tmp_path / "cache", spec, "vilt")
    script = (
        OPEN
        + "\nprint([name for name in ('torch', 'pandas', 'transformers') if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), spec.data, "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines()[-1] == "[]"


def test_examples_without_texts(tmp_path: Path) -> None:
    class Images(Numbers):
        def records(self, split: SplitName) -> Iterator[ExampleRecord]:
            for record in super().records(split):
                yield replace(record, texts=())

    data = open_cached(tmp_path / "numbers", str(tmp_path), lambda: Images(5))
    assert len(data.train) == 5
    assert len(data.train.texts) == 0
    assert example_lengths(data.train).tolist() == [3] * 5
