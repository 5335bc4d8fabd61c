"""`sweepstakes data` as a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import published_files as published
from tests.support.paths import ROOT

MAIN = "from orchestrator.cli.main import main; main()"


def sweepstakes(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = ROOT
    command = [sys.executable, "-c", MAIN, "data", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_a_valid_folder_is_counted(tmp_path: Path) -> None:
    published.write_task(tmp_path, "nlvr2", "vilt")
    done = sweepstakes("check", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["nlvr2", "vilt", "train", "10", "10", "8"]
    assert rows[2] == ["nlvr2", "vilt", "held", "out", "10", "10", "8"]


def test_a_damaged_file_gives_one_line_and_exit_code_2(tmp_path: Path) -> None:
    published.write_task(tmp_path, "nlvr2", "vilt")
    (tmp_path / "vilt/nlvr2_dev.arrow").write_text("no table")
    done = sweepstakes("check", str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"invalid {tmp_path}/vilt/nlvr2_dev.arrow: is not a complete Arrow file ("
    )
    assert line.endswith("; write this table again")


def test_a_folder_without_data(tmp_path: Path) -> None:
    done = sweepstakes("check", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: holds no published data")
    assert len(done.stderr.splitlines()) == 1


def test_scenes_are_valid_and_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "scenes"
    options = ("scenes", str(folder), "--images", "50")
    done = sweepstakes(*options)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{folder} is written\n")
    assert sweepstakes("check", str(folder)).returncode == 0
    assert sweepstakes(*options).stdout == f"{folder} already contains these scenes\n"
    other = sweepstakes(*options, "--seed", "1")
    assert other.returncode == 2
    assert other.stderr.startswith(f"error: {folder}: holds other scenes (")
    assert len(other.stderr.splitlines()) == 1
