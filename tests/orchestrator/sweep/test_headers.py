"""What the headers of data and weights files tell is told while planning, in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.api import workspace
from orchestrator.errors import InputError
from tests.support import published_files
from tests.support.sweeps import STUDY
from trainables.data.formats import resolve_layout
from trainables.data.formats.lxmert.tsv import write_tsv
from trainables.data.formats.vilt.arrow import write_table
from trainables.headers import read_data_sizes
from trainables.spec import ModelSpec
from trainables.training.start import init_backbone

FORMAT_OF = {"uniter": "uniter", "lxmert": "lxmert", "vilt": "vilt"}
OVERRIDES: Mapping[str, dict[str, int]] = {
    "uniter": {"region_dim": published_files.REGION_DIM, "vocab_size": 300},
    "lxmert": {"region_dim": published_files.REGION_DIM},
    "vilt": {},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder with the data of VQA for a model, written once."""
    root = tmp_path_factory.mktemp("data")

    def folder(model: str) -> Path:
        if not (root / model).exists():
            published_files.write_task(root / model, "vqa", FORMAT_OF[model])
        return root / model

    return folder


def document(
    model: str, data: Path | None, overrides: Mapping[str, int] = {}, **entry: Any
) -> dict[str, Any]:
    settings = {**OVERRIDES[model], **overrides}
    study = STUDY | {"model": "mine", "task": "mine" if data else "easy_vqa", "recipe": "short"}
    content: dict[str, Any] = {
        "name": "test",
        "recipes": {"short": {"steps": 10, "batch_size": 8}},
        "models": {
            "mine": {"architecture": model, "size": "tiny", "overrides": settings} | entry,
        },
        "studies": {"main": study},
    }
    return content | ({"tasks": {"mine": {"task": "vqa", "data": str(data)}}} if data else {})


def refusal(content: dict[str, Any], home: Path) -> str:
    """Return the line with which planning refuses a sweep; empty if it does not."""
    try:
        workspace.plan_sweep(content, home)
    except InputError as error:  # exit code 2
        return str(error)
    return ""


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


def rewrite_json(file: Path, change: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def narrow_tsv(file: Path) -> None:
    images = [published_files.tsv_image(n) for n in range(3)]
    write_tsv(file, [each | {"features": each["features"][:, :4]} for each in images])


TXT, IMG = "uniter/txt_db/vqa_trainval.db", "uniter/img_db/coco_train2014"
LMDB = f"{IMG}/feat_th0.2_max100_min10/data.mdb"
TSV = "lxmert/mscoco_imgfeat/train2014_obj36.tsv"
DAMAGES: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("uniter", f"{TXT}/data.mdb", lambda file: cut(file, 4096), "data.mdb"),
    ("uniter", f"{TXT}/data.mdb", lambda file: file.write_bytes(b""), "data.mdb"),
    ("uniter", f"{TXT}/data.mdb", lambda file: file.write_bytes(b"x" * 9000), "data.mdb"),
    ("uniter", f"{TXT}/data.mdb", lambda file: file.unlink(), "data.mdb"),
    ("uniter", f"{TXT}/meta.json", lambda file: file.write_text("{"), "meta.json"),
    ("uniter", f"{TXT}/meta.json", lambda file: file.unlink(), "meta.json"),
    (
        "uniter",
        f"{TXT}/meta.json",
        lambda file: rewrite_json(file, lambda m: {}),
        "another vocabulary",
    ),
    (
        "uniter",
        "uniter/txt_db/vqa_devval.db/id2len.json",
        lambda file: file.write_text("{}"),
        "no held_out example",
    ),
    ("uniter", LMDB, lambda file: cut(file, 8192), "truncated"),
    ("uniter", LMDB, lambda file: shutil.rmtree(file.parent), "holds no folder feat_th0.2"),
    ("uniter", "uniter/ans2label.json", lambda file: file.write_text("[]"), "not a dict"),
    (
        "uniter",
        "uniter/ans2label.json",
        lambda file: rewrite_json(file, lambda labels: {"yes": 0}),
        "is not an integer from 0 to 0",
    ),
    (
        "uniter",
        "uniter/ans2label.json",
        lambda file: rewrite_json(file, lambda labels: {"yes": 0, "no": 2}),
        "are not 0 to 1",
    ),
    ("lxmert", TSV, lambda file: file.write_text("one\ttwo\n"), "2 columns, not 10"),
    ("lxmert", TSV, lambda file: file.write_text(""), "no image"),
    ("lxmert", TSV, narrow_tsv, "region features of 4 numbers"),
    ("lxmert", TSV, lambda file: cut(file, 200), "columns, not 10"),
    ("lxmert", "lxmert/vocab.txt", lambda file: file.unlink(), "vocab.txt"),
    ("lxmert", "lxmert/vocab.txt", lambda file: file.write_text("a\n"), "has no word"),
    ("lxmert", "lxmert/vqa/train.json", lambda file: file.write_text("{}"), "train.json"),
    ("lxmert", "lxmert/vqa/minival.json", lambda file: file.write_text("[]"), "no held_out"),
    (
        "lxmert",
        "lxmert/vqa/train.json",
        lambda file: rewrite_json(file, lambda entries: [{"img_id": 1}, *entries]),
        "entry 0 has no",
    ),
    ("vilt", "vilt/vqav2_train.arrow", lambda file: cut(file, 500), "Arrow file"),
    ("vilt", "vilt/vqav2_train.arrow", lambda file: file.write_bytes(b""), "Arrow file"),
    (
        "vilt",
        "vilt/vqav2_train.arrow",
        lambda file: write_table(file, "snli", published_files.ROWS["snli_ve"][1]("train")),
        "has no column questions",
    ),
    (
        "vilt",
        "vilt/vqav2_rest_val.arrow",
        lambda file: write_table(file, "vqa", []),
        "no held_out example",
    ),
    ("vilt", "vilt/vocab.txt", lambda file: file.write_bytes(b"\xff\xfe\n"), "vocab.txt"),
]


@pytest.mark.parametrize(
    ("model", "file", "damage", "told"), DAMAGES, ids=[f"{d[1]}-{d[3]}" for d in DAMAGES]
)
def test_damage_that_a_header_shows_is_refused_while_planning(
    folders: Callable[[str], Path],
    tmp_path: Path,
    model: str,
    file: str,
    damage: Callable[[Path], object],
    told: str,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folders(model), data)
    assert (data / file).exists()
    damage(data / file)
    line = refusal(document(model, data), tmp_path / "home")
    assert told in line
    assert str(data) in line
    assert "tasks.mine.data" in line or "= 'mine', model mine" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("model", "overrides", "told"),
    [
        ("uniter", {"region_dim": 2048}, "region features of 8 numbers, the model takes 2048"),
        ("uniter", {"vocab_size": 200}, "a vocabulary of 300 words, the model has 200"),
        ("uniter", {"max_position_embeddings": 2}, "tokens, the model takes 2"),
        ("lxmert", {"region_dim": 192}, "region features of 8 numbers, the model takes 192"),
        ("lxmert", {"vocab_size": 5}, "words, the model has 5"),
        ("vilt", {"vocab_size": 5}, "words, the model has 5"),
    ],
)
def test_a_model_that_cannot_read_the_data_is_refused_while_planning(
    folders: Callable[[str], Path],
    tmp_path: Path,
    model: str,
    overrides: dict[str, int],
    told: str,
) -> None:
    line = refusal(document(model, folders(model), overrides), tmp_path)
    assert told in line
    assert "\n" not in line


@pytest.mark.parametrize(("task", "file_format"), published_files.LAYOUTS)
def test_the_sizes_of_every_published_task_are_read(
    tmp_path: Path, task: str, file_format: str
) -> None:
    published_files.write_task(tmp_path, task, file_format)
    layout = resolve_layout(task, file_format, {})
    sizes = read_data_sizes(tmp_path, file_format, layout)
    vocabulary = 300 if file_format == "uniter" else len(published_files.VOCAB)
    assert sizes.words == vocabulary + layout.extra_words
    assert sizes.region_dims == (0 if file_format == "vilt" else published_files.REGION_DIM,)
    assert sizes.longest_text >= 3


@pytest.mark.parametrize("model", FORMAT_OF)
def test_intact_data_are_planned(
    folders: Callable[[str], Path], tmp_path: Path, model: str
) -> None:
    assert refusal(document(model, folders(model)), tmp_path) == ""


def write_weights(file: Path, **overrides: int) -> dict[str, torch.Tensor]:
    settings = tuple(sorted((OVERRIDES["uniter"] | overrides).items()))
    backbone = init_backbone(
        ModelSpec(architecture="uniter", size="tiny", overrides=settings), 0, 0
    )
    state = {name: value.contiguous() for name, value in backbone.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return state


def write_part(file: Path) -> None:
    state = write_weights(file)
    torch.save(dict(list(state.items())[3:]), file)


WEIGHTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("w.pt", lambda file: file.write_bytes(b""), "not a weights file"),
    ("w.pt", lambda file: file.write_bytes(b"no weights"), "not a weights file"),
    ("w.pt", lambda file: (write_weights(file), cut(file, 5000)), "not a weights file"),
    ("w.pt", lambda file: write_weights(file, hidden_size=32), "of another shape"),
    ("w.pt", lambda file: write_weights(file, num_hidden_layers=3), "unexpected"),
    ("w.pt", write_part, "3 missing"),
    ("w.pt", lambda file: torch.save({"a": 1}, file), "holds no named tensors"),
    ("w.safetensors", lambda file: file.write_bytes(b""), "not a weights file"),
    ("w.safetensors", lambda file: (write_weights(file), cut(file, 5000)), "not a weights file"),
    ("w.safetensors", lambda file: write_weights(file, region_dim=9), "of another shape"),
]


@pytest.mark.parametrize(("name", "write", "told"), WEIGHTS, ids=[w[2] for w in WEIGHTS])
def test_weights_that_do_not_fit_are_refused_while_planning(
    tmp_path: Path, name: str, write: Callable[[Path], object], told: str
) -> None:
    file = tmp_path / name
    write(file)
    line = refusal(document("uniter", None, weights=str(file)), tmp_path / "home")
    assert told in line
    assert str(file) in line
    assert "models.mine.weights" in line
    assert "\n" not in line


def test_weights_that_fit_are_planned_and_read_once(tmp_path: Path) -> None:
    file, home = tmp_path / "w.safetensors", tmp_path / "home"
    write_weights(file)
    content = document("uniter", None, weights=str(file))
    assert refusal(content, home) == ""
    modified = file.stat()
    file.write_bytes(bytes(modified.st_size))
    os.utime(file, ns=(modified.st_atime_ns, modified.st_mtime_ns))
    assert refusal(content, home) == "", "neither its size nor its time has changed"
    os.utime(file)
    assert "not a weights file" in refusal(content, home)


def test_missing_weights_may_be_filled(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    write_part(file)
    content = document("uniter", None, weights=str(file), fill=True)
    assert refusal(content, tmp_path / "home") == ""


def test_offline_planning_reads_no_file(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(b"")
    content = document("uniter", tmp_path / "gone", weights=str(file))
    assert len(workspace.plan_sweep(content, tmp_path / "home", offline=True).plan)


def test_easy_vqa_needs_both_files_of_questions(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "train" / "questions.json").write_text("[]")
    content = document("uniter", data)
    content["tasks"]["mine"]["task"] = "easy_vqa"
    line = refusal(content, tmp_path / "home")
    assert "test/questions.json" in line
    assert "\n" not in line
