"""Reading training examples, and scoring a retrieval matrix, on generated scenes.

The scenes lie in UNITER's own LMDB databases. Reading: random batches of 64 VQA questions out of
the memory-mapped cache, which every run after a machine's first does, against the first run's one
pass over the published files. Scoring: all captions against all images with UNITER-tiny as our
evaluation does it, a block of images read once, against building each batch of pairs from its rows.
One thread, CPU time.
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
from trainables.data.scenes.folder import write
from trainables.data.schema.layouts import files_of
from trainables.seeds import Chance
from trainables.spec import ModelSpec, TaskSpec
from trainables.tasks import retrieval, vqa
from trainables.tasks.base import Source
from trainables.training.evaluate import BATCH, evaluate
from trainables.training.network import Network
from trainables.training.start import drawn_backbone

IMAGES = 1500
READ, ROUNDS = 64, 300


def _source(folder: Path) -> Source:
    write(folder / "scenes", images=IMAGES, difficulty=0.5, seed=0)
    return Source(folder / "scenes", folder / "cache")


def _task(name: str, root: Path) -> TaskSpec:
    return TaskSpec(name=name, data=fingerprint(root, files_of(name, "uniter", {"split": "val"})))


def reading(folder: Path) -> tuple[float, float]:
    """Examples per CPU second: from the published files once, and from the cache."""
    torch.set_num_threads(1)
    source = _source(folder)
    spec = _task("vqa", source.data)
    backbone = drawn_backbone(ModelSpec(architecture="uniter", size="tiny"), 0, 0.0)
    begin = time.process_time()
    task = vqa.open_task(source, spec, backbone)
    built = time.process_time() - begin
    chance = np.random.default_rng(0)
    begin = time.process_time()
    for place in range(ROUNDS):
        task.train_batch(chance.integers(len(task.lengths()), size=READ), Chance(place))
    read = time.process_time() - begin
    return (len(task.lengths()) + task.num_eval) / built, READ * ROUNDS / read


def scoring(folder: Path) -> tuple[float, float, int]:
    """Pairs per CPU second: ours, and pair by pair; and how many pairs there are."""
    torch.set_num_threads(1)
    source = _source(folder)
    backbone = drawn_backbone(ModelSpec(architecture="uniter", size="tiny"), 0, 0.0)
    task = retrieval.open_task(source, _task("retrieval", source.data), backbone)
    net = Network(backbone, task.build_head(backbone))
    begin = time.process_time()
    ours = evaluate(net, task, 0, "cpu")
    seconds = time.process_time() - begin
    split = task.data.held_out
    images, texts, owners = retrieval.gallery(split, task.num_eval)
    matrix = torch.empty(len(texts), len(images))
    begin = time.process_time()
    net.eval()
    with torch.no_grad():
        for first in range(0, matrix.numel(), BATCH):
            text, image = np.divmod(
                np.arange(first, min(first + BATCH, matrix.numel())), len(images)
            )
            batch = text_batch(split, texts[text]) | image_batch(split.seen, images[image])
            matrix.view(-1)[first : first + BATCH] = net(batch)
    naive = time.process_time() - begin
    theirs = retrieval.recalls(matrix, torch.from_numpy(owners))
    assert all(abs(ours[name] - value) < 0.5 for name, value in theirs.items())
    return matrix.numel() / seconds, matrix.numel() / naive, matrix.numel()


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = alone(reading, Path(folder))
        ours, theirs, pairs = alone(scoring, Path(folder))
    yield Row(
        what=f"VQA examples read, batches of {READ}",
        ours=f"{warm:,.0f} /s from the cache",
        other=f"from LMDB, once per machine: {cold:,.0f} /s",
        ratio=f"{warm / cold:.1f}x",
    )
    yield Row(
        what=f"retrieval scored, {pairs:,} pairs, UNITER-tiny",
        ours=f"{ours:,.0f} pairs/s",
        other=f"each batch from its rows: {theirs:,.0f} pairs/s",
        ratio=f"{ours / theirs:.2f}x",
    )
