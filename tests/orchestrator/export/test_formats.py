from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import prune
from transformers import ViltModel

from orchestrator.errors import InputError
from orchestrator.export.formats import apply_masks, mask_files, prune_state_files, write_files
from orchestrator.store.ticket import Ticket
from trainables.models.vilt import model as vilt
from trainables.spec import ModelSpec


def random_ticket(shapes: dict[str, tuple[int, ...]]) -> Ticket:
    rng = np.random.default_rng(0)
    masks = {name: rng.random(shape) > 0.7 for name, shape in shapes.items()}
    return Ticket.from_arrays(masks, architecture="vilt", model_sha256="0" * 64, pool="encoder")


def test_masks_are_exported_as_safetensors(tmp_path: Path) -> None:
    ticket = random_ticket({"a.weight": (3, 5), "b.weight": (7,)})
    (path,) = write_files(tmp_path / "new" / "folder", mask_files(ticket))
    loaded = load_file(path)
    assert loaded.keys() == ticket.arrays().keys()
    for name, mask in ticket.arrays().items():
        assert loaded[name].dtype == torch.bool
        assert torch.equal(loaded[name], torch.from_numpy(mask))


def test_a_module_under_torch_prune_loads_the_state(tmp_path: Path) -> None:
    def build() -> torch.nn.Sequential:
        """The batch norm counts its batches in an integer without axes."""
        return torch.nn.Sequential(
            torch.nn.Linear(6, 4), torch.nn.Conv1d(3, 3, 2), torch.nn.BatchNorm1d(3)
        )

    source, target = build(), build()
    ticket = random_ticket({"0.weight": (4, 6), "1.weight": (3, 3, 2)})
    weights = {name: value.numpy() for name, value in source.state_dict().items()}
    (path,) = write_files(tmp_path, prune_state_files(ticket, ticket.arrays(), weights))

    for layer in target[:2]:
        prune.identity(layer, "weight")  # type: ignore[no-untyped-call]
    target.load_state_dict(load_file(path), strict=True)
    target(torch.randn(2, 3, 6))  # the forward pre-hook computes the pruned weight
    for index, mask in enumerate(ticket.arrays().values()):
        before, after = source[index].weight, target[index].weight
        assert isinstance(before, torch.Tensor)
        assert isinstance(after, torch.Tensor)
        assert torch.equal(after, before * torch.from_numpy(mask))


def test_from_pretrained_loads_the_pruned_vilt(tmp_path: Path) -> None:
    spec = ModelSpec(architecture="vilt", size="tiny")
    backbone = vilt.build(spec, dropout=0.0)
    state = backbone.state_dict()
    ticket = random_ticket(
        {name: tuple(state[name].shape) for name in backbone.prunable("encoder+pooler")}
    )
    arrays = apply_masks(ticket.arrays(), {name: value.numpy() for name, value in state.items()})
    after = {name: torch.from_numpy(value) for name, value in arrays.items()}
    vilt.save_pretrained(after, spec, tmp_path)

    loader: Any = ViltModel
    loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    masks, loaded_state = ticket.arrays(), loaded.state_dict()
    for name, value in state.items():
        expected = value * torch.from_numpy(masks[name]) if name in masks else value
        assert torch.equal(loaded_state[name], expected)


def test_weights_of_another_model_are_refused() -> None:
    ticket = random_ticket({"a.weight": (3, 5)})
    with pytest.raises(InputError, match=r"no a\.weight"):
        prune_state_files(ticket, ticket.arrays(), {"b.weight": np.zeros((3, 5))})
    with pytest.raises(InputError, match=r"\(5, 3\) in the weights and \(3, 5\) in the ticket"):
        apply_masks(ticket.arrays(), {"a.weight": np.zeros((5, 3))})


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "sub/file", "..", ""])
def test_no_file_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="inside"):
        write_files(folder, {"good": b"1", name: b"2"})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="no file can be written here"):
        write_files(tmp_path / "file" / "folder", {"a": b""})


def test_symbolic_links_in_the_folder_are_replaced_and_not_followed(tmp_path: Path) -> None:
    """Other users may have write access to the folder."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in ("a", ".a.partial"):
        (folder / name).symlink_to(victim)
    (written,) = write_files(folder, {"a": b"new"})
    assert (written.read_bytes(), written.is_symlink()) == (b"new", False)
    assert victim.read_bytes() == b"precious"
