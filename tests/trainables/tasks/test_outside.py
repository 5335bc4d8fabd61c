"""A model from outside the package in the package's tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import image_text_pairs, published_files
from tests.support.paths import ROOT
from tests.support.runs import RecordingSink
from trainables.run import RunInputs, run
from trainables.seeds import Rng
from trainables.spec import ModelSpec, TrainSpec
from trainables.tasks import default_recipe, embedding_extensions
from trainables.tasks.nlvr2 import PairedAttention
from trainables.training.checkpoint import decode_checkpoint
from trainables.training.start import extended_backbone
from trainables.user_modules import UserModule, install, read_user_module, uninstall

TYPES = "backbone.types.weight"


@pytest.fixture
def pairs() -> Iterator[UserModule]:
    module = read_user_module(ROOT / "tests/support/toy_pairs.py")
    install([module])
    yield module
    uninstall()


def test_it_marks_and_compares_two_images(pairs: UserModule, tmp_path: Path) -> None:
    spec = TrainSpec(
        model=ModelSpec(architecture="toy_pairs", size="tiny", source=pairs.sha256),
        task=published_files.write_task(tmp_path, "nlvr2", "uniter"),
        recipe=default_recipe("nlvr2", "toy_pairs"),
    )
    inputs, sink = (
        RunInputs(data=tmp_path, cache=tmp_path / "cache", modules=(pairs,)),
        RecordingSink(),
    )
    outcome = run(spec, inputs, sink, rewinds=(0, 2))
    assert 0 <= outcome.scores["score"] <= 100
    before, after = (decode_checkpoint(sink.rewinds[step])[0] for step in (0, 2))
    assert len(before[TYPES]) == 3
    assert torch.equal(before[TYPES][1], before[TYPES][2])
    assert not torch.equal(after[TYPES][1], after[TYPES][2])
    assert "head.attn1.in_proj_weight" in after


def test_a_task_head_has_the_dropout_and_the_heads_of_its_model(pairs: UserModule) -> None:
    for architecture, heads in (("toy_pairs", 2), ("uniter", 4)):
        model = ModelSpec(architecture=architecture, size="tiny")
        backbone = extended_backbone(model, embedding_extensions("nlvr2", architecture), 0.25)
        head = PairedAttention(backbone)
        assert (head.attn1.num_heads, head.attn2.dropout, head.fc[2].p) == (heads, 0.25, 0.25)


def test_it_chooses_the_number_of_texts_per_image(pairs: UserModule) -> None:
    backbone = image_text_pairs.backbone("toy_pairs", region_dim=image_text_pairs.DIM)
    task = image_text_pairs.build_task("retrieval", image_text_pairs.caption_data(6, 2), backbone)
    batch = task.train_batch(np.arange(3), Rng(0))
    assert len(batch["input_ids"]) == 3 * 5
