"""Entries from installed packages and from the user's own files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.plugins import installed_packages, registered, write_package
from trainables.errors import PluginError
from trainables.pruning import PRUNERS, PruneMethod
from trainables.tasks import TASKS
from trainables.user_modules import UserModule, install, read_user_module, uninstall

METHOD = """
from trainables.pruning import PruneMethod
PRUNER = PruneMethod(module=__name__, needs="nothing")
"""
ENTRY_POINT = {"sweepstakes.pruners.first_k": "first_k_pruning:PRUNER"}
LOOK_UP = """
import sys
from trainables.errors import PluginError
from trainables.pruning import PRUNERS
try:
    print(*PRUNERS, len(PRUNERS), "first_k" in PRUNERS)
    print(PRUNERS[sys.argv[1]].needs, PRUNERS.source_of(sys.argv[1]))
except PluginError as error:
    print(error)
"""


@pytest.fixture
def clean() -> Iterator[None]:
    yield
    uninstall()


def look_up(folder: Path, name: str = "first_k") -> list[str]:
    """Look up a pruning method in a process that finds the packages in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UP, name],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_an_installed_package_adds_an_entry_and_its_source_is_hashed(tmp_path: Path) -> None:
    files = {"__init__.py": METHOD, "inner/code.py": "A = 1\n"}
    write_package(tmp_path, "first_k_pruning", files, ENTRY_POINT)
    names, found = look_up(tmp_path)
    assert names == "magnitude random first_k 3 True"
    needs, sha256 = found.split()
    assert needs == "nothing"
    assert len(sha256) == 64
    (tmp_path / "first_k_pruning/inner/code.py").write_text("A = 2\n")
    changed = look_up(tmp_path)[1].split()[1]
    assert changed != sha256
    (tmp_path / "first_k_pruning/inner/code.py").write_text("A = 1\n")
    assert look_up(tmp_path)[1].split()[1] == sha256


@pytest.mark.parametrize(
    ("text", "expected"),
    [("raise OSError('no licence')", "no licence"), ("PRUNER = 3", "PruneMethod")],
)
def test_a_broken_package_costs_one_line_when_it_is_used(
    tmp_path: Path, text: str, expected: str
) -> None:
    write_package(tmp_path, "first_k_pruning", {"__init__.py": text}, ENTRY_POINT)
    names, error = look_up(tmp_path)
    assert "first_k" in names  # listing the names loads no package
    assert expected in error
    assert "first_k_pruning" in error


def test_a_file_adds_an_entry_under_its_name(clean: None, tmp_path: Path) -> None:
    path = tmp_path / "first_k.py"
    path.write_text(METHOD)
    module = read_user_module(path)
    install([module])
    assert PRUNERS["first_k"].needs == "nothing"
    assert PRUNERS.source_of("first_k") == module.sha256
    PRUNERS.check_source("first_k", module.sha256)
    changed = UserModule("first_k", METHOD.replace("nothing", "weights"))
    install([changed, changed])
    assert PRUNERS["first_k"].needs == "weights"
    with pytest.raises(PluginError, match="another version"):
        PRUNERS.check_source("first_k", module.sha256)
    with pytest.raises(PluginError, match="TASK"):
        TASKS.require("first_k", changed.sha256)


def test_a_package_does_not_silently_lose_to_a_built_in_entry(tmp_path: Path) -> None:
    write_package(
        tmp_path,
        "first_k_pruning",
        {"__init__.py": METHOD},
        ENTRY_POINT | {"sweepstakes.pruners.random": "first_k_pruning:PRUNER"},
    )
    assert look_up(tmp_path)[1].startswith("nothing ")  # other names are not affected
    assert look_up(tmp_path, "random")[1] == (
        "entry point random = 'first_k_pruning:PRUNER' of sweepstakes.pruners: 'random' is the "
        "name of a built-in entry; rename the entry point, or uninstall its package"
    )


def test_an_entry_that_a_file_only_imports_is_not_added_again(clean: None, tmp_path: Path) -> None:
    files = {"__init__.py": METHOD.replace("PRUNER", "OTHER")}
    entry_point = {"sweepstakes.pruners.other": "packaged_pruning:OTHER"}
    write_package(tmp_path, "packaged_pruning", files, entry_point)
    imports = "from trainables.tasks import TASKS\nTASK = TASKS['vqa']\n"
    with installed_packages(tmp_path):
        install([UserModule("first_k", imports + METHOD)])
        assert PRUNERS["first_k"].needs == "nothing"
        assert "first_k" not in TASKS
        with pytest.raises(PluginError, match="binds no entry"):
            install([UserModule("second_k", "from packaged_pruning import OTHER as PRUNER")])


def test_a_file_is_compiled_as_a_plain_import_compiles_it(clean: None) -> None:
    """Without the `from __future__` lines of the module that compiles it."""
    text = METHOD + "def of(x: int): ...\nassert of.__annotations__ == {'x': int}\n"
    install([UserModule("first_k", text)])
    assert "first_k" in PRUNERS


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("first_k", "def prune(:", "line 1"),
        ("first_k", "import does_not_exist", "does_not_exist"),
        ("first_k", "x = 1", "PRUNER"),
        ("first_k", "PRUNER = 'magnitude'", "PruneMethod"),
        (
            "first_k",
            METHOD.replace('"nothing"', '"bogus"'),
            "needs = 'bogus' is not known; use one",
        ),
        ("first_k", r"raise ValueError('one\ntwo')", r"\(ValueError: one\)"),
        ("random", METHOD, "rename"),
    ],
)
def test_a_file_that_adds_nothing_is_refused(name: str, text: str, expected: str) -> None:
    with pytest.raises(PluginError, match=rf"{name}\.py: .*{expected}"):
        install([UserModule(name, text)])
    assert name == "random" or name not in PRUNERS


@pytest.mark.parametrize("name", ["first-k.py", "first_k.txt", "missing.py"])
def test_what_is_no_module_is_refused(tmp_path: Path, name: str) -> None:
    if name != "missing.py":
        (tmp_path / name).write_text(METHOD)
    with pytest.raises(PluginError, match=name):
        read_user_module(tmp_path / name)


def test_a_part_that_is_missing_here_is_named() -> None:
    with pytest.raises(PluginError, match=r"first_k.*this machine has none"):
        PRUNERS.check_source("first_k", "0" * 64)
    with registered(PRUNERS, "first_k", PruneMethod(module="x", needs="nothing")):
        assert "first_k" in PRUNERS
    assert "first_k" not in PRUNERS
