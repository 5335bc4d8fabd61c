"""Untrusted files: sweep files, weights, data."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.sweep.config import Sweep
from tests.support import hostile_files
from trainables.data.formats.uniter.arrays import from_npz
from trainables.errors import CheckpointError
from trainables.models.checkpoint import read_tensors

TENS = ", ".join(["lol"] * 10)
LAUGHS = "".join(f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
"""Aliases of aliases: 10^11 words when expanded."""

WRONG = {
    "code": "name: !!python/object/apply:pathlib.Path.touch [FLAG]\n",
    "object": "!!python/object/new:pathlib.Path [FLAG]\n",
    "laughs": f"name:\n  - &a0 [{TENS}]\n{LAUGHS}",
    "within itself": "name: &a [*a]\n",
    "brackets": "[" * 10_000,
    "braces": "{a: " * 3_000,
    "a list as a key": "? [1, 2]\n: 3\n",
    "a number": f"name: {'9' * 10_000}\n",
    "sixties": f"name: {':'.join(['59'] * 3_000)}\n",
    "a date": "name: 2020-99-99\n",
    "a truth": "name: !!bool maybe\n",
    "a time": "name: !!timestamp soon\n",
    "a path": "name: ../../out\nstudies: {}\n",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_hostile_sweep_file_gives_a_one_line_error(tmp_path: Path, case: str) -> None:
    flag, file = tmp_path / "flag", tmp_path / "sweep.yaml"
    file.write_text(WRONG[case].replace("FLAG", str(flag)))
    with pytest.raises(ConfigError) as caught:
        Sweep.from_file(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    assert len(message) < 300 + len(str(file))
    assert not flag.exists()


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".safetensors"])
def test_weights_with_code_are_refused(tmp_path: Path, suffix: str) -> None:
    flag, file = tmp_path / "flag", tmp_path / f"weights{suffix}"
    for data in (
        hostile_files.torch_file(flag),
        hostile_files.pickle_file(flag),
        hostile_files.npy_file(flag),
    ):
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match="without running code"):
            read_tensors(file)
    assert not flag.exists()


def test_arrays_with_code_are_refused(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with io.BytesIO() as stream:
        with zipfile.ZipFile(stream, "w") as members:
            members.writestr("features.npy", hostile_files.npy_file(flag))
        with pytest.raises(ValueError, match="allow_pickle"):
            from_npz(stream.getvalue(), ["features"])
    assert not flag.exists()
