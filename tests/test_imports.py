"""Which room may import which, and what planning must never load."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.sweeps import document

FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "orchestrator": (
        ("__main__",),
        ("cli",),
        ("api",),
        ("tune",),
        ("worker", "monitor", "export", "report"),
        ("report.sections",),
        ("report.page",),
        ("report.data", "tracking", "ray_cluster"),
        ("cost", "expand"),
        ("schedule", "store"),
        ("plan", "sweep"),
        ("files", "credentials"),
        ("errors",),
    ),
    "trainables": (
        ("run_group",),
        ("run",),
        ("training", "data.scenes"),
        ("tasks", "optim", "pruning"),
        ("data",),
        ("data.cache", "data.formats.uniter", "data.formats.vilt"),
        ("data.formats.lxmert",),
        ("data.formats",),
        ("data.schema",),
        ("models", "tickets", "distributed"),
        ("seeds",),
        ("spec", "errors"),
    ),
    "cluster": (
        ("providers",),
        ("providers.kuberay",),
        ("local", "profile", "submit"),
        ("errors",),
    ),
}
"""The rooms of each package, from the top floor down: folders, and the modules that lie beside
them. A room imports only from the floors below its own."""

PURE = {"plan", "sweep", "expand", "schedule", "cost", "files", "credentials", "errors"}
"""Rooms of `orchestrator` that load nothing heavy, so that planning starts at once."""
LIGHT = {
    *("spec", "errors", "models", "tasks", "pruning", "data.fingerprint", "data.schema.layouts"),
}
"""What any module of `orchestrator` may import of `trainables`: light, without torch."""
TRAINABLES_BY = {
    "worker.trial": {"run", "run_group", "training.sink"},
    "worker.multi_node": {
        *("run", "run_group", "distributed.launch", "distributed.process", "training.sink"),
    },
    "worker.inputs": {"run"},
    "export.weights": {"training.start"},
    "cli.data": {"data.check", "data.scenes"},
}
CLUSTER_BY = {"api", "cli"}
"""The rooms of `orchestrator` that know `cluster`."""

HEAVY = (
    *("ray", "torch", "deepspeed", "transformers", "mlflow", "matplotlib", "pandas"),
    *("numpy", "boto3", "pyarrow"),
)
REPORT_WITHOUT = ("ray", "torch", "deepspeed", "transformers", "mlflow")

LOOK = """
import importlib, json, sys
modules, heavy = json.loads(sys.argv[1])
found = {}
for module in modules:
    importlib.import_module(module)
    found[module] = [name for name in heavy if name in sys.modules]
print(json.dumps(found))
"""

PLAN_WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "torch"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from orchestrator.cli.main import main
main()
"""


def loaded(modules: tuple[str, ...], heavy: tuple[str, ...]) -> dict[str, list[str]]:
    """Which of `heavy` are there after each module was imported, one after another."""
    found = python("-c", LOOK, json.dumps([modules, heavy]))
    return dict(json.loads(found))


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(package: str) -> dict[str, ast.Module]:
    """Dotted name within the package (a folder's `__init__` by the folder's) to syntax tree."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Absolute dotted names of what a module imports anywhere, also where only types are checked:
    `from a import b` gives `a.b`, whether `b` is a module or a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports: the rooms are told by them"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(package: str, tree: ast.Module) -> Iterator[str]:
    """The names that a module imports from `package`, without the package's own name."""
    parts = (name.partition(".") for name in imported(tree))
    return (rest for head, _, rest in parts if head == package and rest)


def room(package: str, name: str) -> str:
    """The room of a module, or of a name that is imported from one: the longest that fits."""
    stated = [one for floor in FLOORS[package] for one in floor]
    inside = [one for one in stated if name == one or name.startswith(f"{one}.")]
    return max(inside, key=len, default="")


def pure_modules() -> tuple[str, ...]:
    """The pure rooms' modules, and the light ones of `trainables`."""
    ours = (name for name in sources("orchestrator") if room("orchestrator", name) in PURE)
    return (*(f"orchestrator.{name}" for name in ours), *(f"trainables.{name}" for name in LIGHT))


def test_pure_modules_load_nothing_heavy() -> None:
    assert loaded(pure_modules(), HEAVY) == {module: [] for module in pure_modules()}


@pytest.mark.parametrize("module", ["orchestrator.report", "orchestrator.store.tickets"])
def test_reporting_needs_neither_ray_nor_torch_nor_mlflow(module: str) -> None:
    assert loaded((module,), REPORT_WITHOUT) == {module: []}


def test_planning_works_where_ray_and_torch_are_absent(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(document()))
    printed = python("-c", PLAN_WITHOUT, "--home", str(tmp_path), "plan", str(sweep), "--json")
    assert json.loads(printed)["to_run"] == 9


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_is_a_room_that_says_what_belongs_in_it(package: str) -> None:
    stated = {one for floor in FLOORS[package] for one in floor}
    found = {room(package, name) for name in sources(package) if name}
    assert stated == found, "a room without a floor, or a floor without a room"
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    for folder in folders:
        where = folder.relative_to(ROOT / package)
        own = ".".join(where.parts)
        assert own in stated | {""}, f"{folder} has no floor"
        text = (folder / "__init__.py").read_text()
        assert ast.get_docstring(ast.parse(text)), f"{folder}: say what belongs in this room"


@pytest.mark.parametrize("package", FLOORS)
def test_a_room_imports_only_from_the_floors_below_it(package: str) -> None:
    floor_of = {one: level for level, floor in enumerate(FLOORS[package]) for one in floor}
    for name, tree in sources(package).items():
        own = room(package, name)
        for found in within(package, tree) if name else ():
            other = room(package, found)
            assert other in ("", own) or floor_of[other] > floor_of[own], (
                f"{package}.{name} imports {package}.{found}"
            )


@pytest.mark.parametrize("package", FLOORS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    trees = sources(package)

    def module_of(name: str) -> str:
        return name if name in trees else name.rpartition(".")[0]

    graph = {name: {module_of(found) for found in within(package, tree)} - {name, ""}
             for name, tree in trees.items() if name}  # fmt: skip
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", ["trainables", "cluster"])
def test_what_runs_on_its_own_imports_nothing_of_ours(package: str) -> None:
    ours = {"orchestrator", "trainables", "cluster", "tests"} - {package}
    for name, tree in sources(package).items():
        foreign = [found for found in imported(tree) if found.partition(".")[0] in ours]
        assert not foreign, f"{package}.{name} imports {foreign}"


def test_what_the_orchestrator_imports_of_the_trainables() -> None:
    for name, tree in sources("orchestrator").items():
        allowed = LIGHT | TRAINABLES_BY.get(name, set())
        for found in within("trainables", tree):
            assert {found, found.rpartition(".")[0]} & allowed, (
                f"orchestrator.{name} imports trainables.{found}"
            )


def test_only_the_api_and_the_command_line_know_the_cluster() -> None:
    users = {
        room("orchestrator", name)
        for name, tree in sources("orchestrator").items()
        if [*within("cluster", tree)]
    }
    assert users == CLUSTER_BY


def test_few_files_lie_beside_the_rooms() -> None:
    assert len([*(ROOT / "orchestrator").glob("*.py")]) <= 10


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    for package in FLOORS:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            folder = ROOT / path.parent.relative_to(ROOT / "tests")
            assert folder.is_dir(), f"{path} tests a room that does not exist"


def test_no_test_module_imports_another() -> None:
    for name, tree in sources("tests").items():
        for found in within("tests", tree):
            parts = found.split(".")
            assert not any(part.startswith("test_") or part == "conftest" for part in parts), (
                f"tests.{name} imports tests.{found}; what tests share lies in tests/support"
            )
