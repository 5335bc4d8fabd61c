"""Files that a training run wrote: the weights are read, the rest is neither kept nor imported."""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.hostile_files import MaliciousObject
from trainables.errors import CheckpointError
from trainables.models.checkpoint import read_tensors

WEIGHTS = OrderedDict(
    {"transformer.blocks.0.norm1.weight": torch.ones(3), "pooler.bias": torch.arange(2.0)}
)


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module in the place of Lightning's, which is not installed."""
    modules = {}
    for name in (
        "pytorch_lightning",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.callbacks.model_checkpoint",
    ):
        modules[name] = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, modules[name])
    made = modules["pytorch_lightning.callbacks.model_checkpoint"]

    class ModelCheckpoint:
        pass

    class AttributeDict(dict[str, Any]):
        pass

    for each in (ModelCheckpoint, AttributeDict):
        each.__module__, each.__qualname__ = made.__name__, each.__name__
        setattr(made, each.__name__, each)
    return made


def run_file(lightning: ModuleType, **more: Any) -> dict[str, Any]:
    """Return the entries that Lightning 1.1.4's `dump_checkpoint` writes."""
    return {
        "epoch": 9,
        "global_step": 25_000,
        "pytorch-lightning_version": "1.1.4",
        "state_dict": WEIGHTS,
        "callbacks": {
            lightning.ModelCheckpoint: {
                "monitor": "val/the_metric",
                "best_model_score": torch.tensor(0.7),
                "best_model_path": "result/last.ckpt",
            }
        },
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": 1, "lr_lambdas": [None]}],
        "native_amp_scaling_state": {"scale": 65536.0},
        "hparams_name": "config",
        "hyper_parameters": {"config": {"exp_name": "finetune_vqa", "image_size": 384}},
        **more,
    }


def test_the_file_of_a_lightning_run_is_read_without_lightning(
    tmp_path: Path, lightning: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = {
        "hyper_parameters": lightning.AttributeDict(lr=np.float64(1e-4)),
        "arguments": argparse.Namespace(path=PurePosixPath("data"), counts=defaultdict(list)),
        "array": np.arange(3),
    }
    torch.save(run_file(lightning, **beside), tmp_path / "last.ckpt")
    monkeypatch.delitem(sys.modules, lightning.__name__)
    actual = read_tensors(tmp_path / "last.ckpt")
    assert actual.keys() == WEIGHTS.keys()
    assert all(torch.equal(actual[name], value) for name, value in WEIGHTS.items())


def test_no_code_of_a_listed_name_runs(tmp_path: Path, lightning: ModuleType) -> None:
    flag = tmp_path / "flag"

    class Restored:
        def __reduce__(self) -> tuple[object, ...]:
            return lightning.restore, (str(flag),)  # type: ignore[attr-defined]

    def restore(path: str) -> None:
        Path(path).touch()

    restore.__module__, restore.__qualname__ = lightning.__name__, "restore"
    lightning.restore = restore  # type: ignore[attr-defined]
    torch.save(run_file(lightning, more=Restored()), tmp_path / "last.ckpt")
    assert read_tensors(tmp_path / "last.ckpt").keys() == WEIGHTS.keys()
    assert not flag.exists()
    torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert flag.exists()  # so the file does call it where it can


def test_code_beside_what_lightning_writes_is_refused_in_one_line(
    tmp_path: Path, lightning: ModuleType
) -> None:
    flag, file = tmp_path / "flag", tmp_path / "last.ckpt"
    torch.save(run_file(lightning, more=MaliciousObject(flag)), file)
    with pytest.raises(CheckpointError, match=r"it refers to getattr\); save its state") as caught:
        read_tensors(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert message.isprintable()
    assert not flag.exists()


def test_the_stubs_are_gone_after_reading(tmp_path: Path, lightning: ModuleType) -> None:
    torch.save(run_file(lightning), tmp_path / "last.ckpt")
    before = set(torch.serialization.get_safe_globals())
    read_tensors(tmp_path / "last.ckpt")
    assert set(torch.serialization.get_safe_globals()) == before
