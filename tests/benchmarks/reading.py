"""Benchmarks of reading training examples and scoring a retrieval matrix, on generated scenes.

The scenes are in UNITER's LMDB databases. Reading: random batches of 64 VQA questions from the
memory-mapped cache, as in every run after a machine's first, compared with the first run's pass
over the published files. Scoring: all captions against all images with UNITER-tiny, with the
package's evaluation, which reads each block of images once and sorts by length, compared with
building each batch of pairs from its rows in the order of the files. The two take turns. The
first pass of each is not counted: it is up to 1.4 times as slow. CPU time of one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.alone import alone
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row
from trainables.data.batches import image_batch, text_batch
from trainables.data.fingerprint import fingerprint
from trainables.data.formats import task_files
from trainables.data.scenes.folder import write_scenes
from trainables.seeds import Rng
from trainables.spec import ModelSpec, TaskSpec
from trainables.tasks import retrieval, vqa
from trainables.tasks.base import TaskSource
from trainables.training.evaluate import BATCH_SIZE, evaluate
from trainables.training.network import Network
from trainables.training.start import init_backbone

IMAGES = sized(1500, smoke=200)
BATCH, ROUNDS = 64, sized(300, smoke=2)
TURNS = sized(5, smoke=1)


def _source(folder: Path) -> TaskSource:
    write_scenes(folder / "scenes", images=IMAGES, difficulty=0.5, seed=0)
    return TaskSource(folder / "scenes", folder / "cache")


def _task(name: str, root: Path) -> TaskSpec:
    return TaskSpec(name=name, data=fingerprint(root, task_files(name, "uniter", {"split": "val"})))


def reading(folder: Path) -> tuple[float, float]:
    """Return examples per CPU second from the published files and from the cache."""
    torch.set_num_threads(1)
    source = _source(folder)
    spec = _task("vqa", source.local_path())
    backbone = init_backbone(ModelSpec(architecture="uniter", size="tiny"), 0, 0.0)
    start = time.process_time()
    task = vqa.open_task(source, spec, backbone)
    build_s = time.process_time() - start
    rng = np.random.default_rng(0)
    start = time.process_time()
    for step in range(ROUNDS):
        task.train_batch(rng.integers(len(task.lengths()), size=BATCH), Rng(step))
    read_s = time.process_time() - start
    return (len(task.lengths()) + task.num_eval) / build_s, BATCH * ROUNDS / read_s


def scoring(folder: Path) -> tuple[float, float, int]:
    """Return pairs per CPU second in the package's evaluation and from rows, and the number of
    pairs."""
    torch.set_num_threads(1)
    source = _source(folder)
    backbone = init_backbone(ModelSpec(architecture="uniter", size="tiny"), 0, 0.0)
    task = retrieval.open_task(source, _task("retrieval", source.local_path()), backbone)
    net = Network(backbone, task.build_head(backbone))
    split = task.data.held_out
    images, texts, owners = retrieval.gallery(split, task.num_eval)
    matrix = torch.empty(len(texts), len(images))

    def from_rows() -> dict[str, float]:
        net.eval()
        with torch.no_grad():
            for first in range(0, matrix.numel(), BATCH_SIZE):
                pairs = np.arange(first, min(first + BATCH_SIZE, matrix.numel()))
                text, image = np.divmod(pairs, len(images))
                batch = text_batch(split, texts[text])
                batch |= image_batch(split.image_data, images[image])
                matrix.view(-1)[first : first + BATCH_SIZE] = net(batch)
        return retrieval.recall_at_k(matrix, torch.from_numpy(owners))

    sides = (partial(evaluate, net, task, 0, "cpu"), from_rows)
    scores, naive_scores = (side() for side in sides)
    assert all(abs(scores[name] - value) < 0.5 for name, value in naive_scores.items())
    times = [[_cpu_seconds(side) for side in sides] for _ in range(TURNS)]
    ours_s, naive_s = (statistics.median(each) for each in zip(*times, strict=True))
    return matrix.numel() / ours_s, matrix.numel() / naive_s, matrix.numel()


def _cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = alone(reading, Path(folder))
    yield Row(
        what=f"VQA examples read, batches of {BATCH}",
        ours=f"{warm:,.0f} /s from the cache",
        other=f"from LMDB, once per machine: {cold:,.0f} /s",
        ratio=f"{warm / cold:.1f}x",
    )
    with tempfile.TemporaryDirectory() as folder:
        rate, naive_rate, pairs = alone(scoring, Path(folder))
    yield Row(
        what=f"retrieval scored, {pairs:,} pairs, UNITER-tiny",
        ours=f"{rate:,.0f} pairs/s",
        other=f"each batch from its rows: {naive_rate:,.0f} pairs/s",
        ratio=f"{rate / naive_rate:.2f}x",
    )
