"""Benchmarks of reading training examples and scoring a retrieval matrix, on generated scenes.

The scenes are in UNITER's LMDB databases. Reading: random batches of 64 VQA questions from the
memory-mapped cache, as in every run after a machine's first, compared with the first run's pass
over the published files. Scoring: all captions against all images with UNITER-tiny, with the
package's evaluation, which reads each block of images once, compared with building each batch of
pairs from its rows. CPU time of one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.alone import alone
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

IMAGES = 1500
BATCH, ROUNDS = 64, 300


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
    """Return pairs per CPU second in the package's evaluation and pair by pair, and the number of
    pairs."""
    torch.set_num_threads(1)
    source = _source(folder)
    backbone = init_backbone(ModelSpec(architecture="uniter", size="tiny"), 0, 0.0)
    task = retrieval.open_task(source, _task("retrieval", source.local_path()), backbone)
    net = Network(backbone, task.build_head(backbone))
    start = time.process_time()
    scores = evaluate(net, task, 0, "cpu")
    ours_s = time.process_time() - start
    split = task.data.held_out
    images, texts, owners = retrieval.gallery(split, task.num_eval)
    matrix = torch.empty(len(texts), len(images))
    start = time.process_time()
    net.eval()
    with torch.no_grad():
        for first in range(0, matrix.numel(), BATCH_SIZE):
            text, image = np.divmod(
                np.arange(first, min(first + BATCH_SIZE, matrix.numel())), len(images)
            )
            batch = text_batch(split, texts[text]) | image_batch(split.image_data, images[image])
            matrix.view(-1)[first : first + BATCH_SIZE] = net(batch)
    naive_s = time.process_time() - start
    naive_scores = retrieval.recall_at_k(matrix, torch.from_numpy(owners))
    assert all(abs(scores[name] - value) < 0.5 for name, value in naive_scores.items())
    return matrix.numel() / ours_s, matrix.numel() / naive_s, matrix.numel()


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = alone(reading, Path(folder))
        rate, naive_rate, pairs = alone(scoring, Path(folder))
    yield Row(
        what=f"VQA examples read, batches of {BATCH}",
        ours=f"{warm:,.0f} /s from the cache",
        other=f"from LMDB, once per machine: {cold:,.0f} /s",
        ratio=f"{warm / cold:.1f}x",
    )
    yield Row(
        what=f"retrieval scored, {pairs:,} pairs, UNITER-tiny",
        ours=f"{rate:,.0f} pairs/s",
        other=f"each batch from its rows: {naive_rate:,.0f} pairs/s",
        ratio=f"{rate / naive_rate:.2f}x",
    )
