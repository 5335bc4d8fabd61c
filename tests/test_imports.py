"""Who may import whom, and what planning must never load."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.sweeps import document

ROWS: tuple[tuple[str, ...], ...] = (
    (
        *("errors", "identity", "plan", "frontier", "lanes", "config", "sweep_file", "yaml_file"),
        *("inputs", "fingerprints", "recipes", "expand", "costs", "preview", "prices", "forecast"),
        *("pace", "estimate"),
    ),
    ("store",),
    ("tracking", "report", "progress", "trial_log", "status", "explain"),
    (
        *("exports", "environment", "watch", "work", "supplies", "elsewhere", "actors"),
        *("spanning", "trial"),
    ),
    (
        *("ray_cluster", "places", "nodes", "beacon", "observers", "searcher", "handout"),
        *("stint", "tune_hooks", "budget", "timeline", "metrics"),
    ),
    ("driver",),
    (
        *("workspace", "session", "cli", "cli_tickets", "cli_data", "cli_jobs", "cli_shared"),
        *("cli_look", "cli_plan", "cli_cluster", "travel", "__main__"),
    ),
)
"""The modules of `orchestrator`; each imports nothing of a later row."""

TRAINABLES_ANYWHERE = {
    *("spec", "errors", "models", "tasks", "pruning", "data.fingerprint", "data.layouts"),
}
"""What any module of `orchestrator` may import of `trainables`: light, without torch."""
TRAINABLES_BY = {
    "trial": {"run", "group", "training.sink"},
    "spanning": {"run", "group", "launch", "training.process", "training.sink"},
    "supplies": {"run"},
    "exports": {"training.start"},
    "cli_data": {"data.check", "data.scenes"},
}
CLUSTER_BY = {"workspace", "cli_cluster", "cli", "cli_jobs"}

PURE = (
    *("trainables.spec", "trainables.errors", "trainables.models", "trainables.tasks"),
    *("trainables.pruning", "trainables.data.fingerprint"),
    *(
        "orchestrator.errors",
        "orchestrator.plan.graph",
        "orchestrator.plan.keys",
        "orchestrator.schedule.frontier",
    ),
    *(
        "orchestrator.schedule.batching",
        "orchestrator.sweep.config",
        "orchestrator.sweep.resolve",
        "orchestrator.expand.sources",
    ),
    *("orchestrator.expand.studies", "orchestrator.plan.counts", "orchestrator.sweep.fingerprints"),
    *("orchestrator.sweep.sweep_file", "orchestrator.sweep.yaml_file", "orchestrator.plan.work"),
    *(
        "orchestrator.cost.prices",
        "orchestrator.schedule.forecast",
        "orchestrator.cost.checkpointing",
        "orchestrator.cost.estimate",
    ),
)
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


def test_pure_modules_load_nothing_heavy() -> None:
    assert loaded(PURE, HEAVY) == {module: [] for module in PURE}


def test_the_list_of_pure_modules_is_whole() -> None:
    """The first row, and what the first row imports of `trainables`."""
    assert {f"orchestrator.{name}" for name in ROWS[0]} <= set(PURE)


@pytest.mark.parametrize("module", ["orchestrator.report", "orchestrator.store.tickets"])
def test_reporting_needs_neither_ray_nor_torch_nor_mlflow(module: str) -> None:
    assert loaded((module,), REPORT_WITHOUT) == {module: []}


def test_planning_works_where_ray_and_torch_are_absent(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(document()))
    printed = python("-c", PLAN_WITHOUT, "--home", str(tmp_path), "plan", str(sweep), "--json")
    assert json.loads(printed)["to_run"] == 9


def sources(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Dotted name within the package (a package's `__init__` by the package's), and syntax tree."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(), filename=str(path))


def imported(tree: ast.Module) -> Iterator[str]:
    """Absolute dotted names of what is imported anywhere in a module, also where only types are
    checked: `from a import b` gives `a.b`, whether `b` is a module or a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports: the rows are told by them"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of(package: str, names: Iterator[str]) -> Iterator[str]:
    """The names within `package`, without the package's own."""
    return (name.partition(".")[2] for name in names if name.partition(".")[0] == package)


@pytest.mark.parametrize("package", ["trainables", "cluster"])
def test_what_runs_on_its_own_imports_nothing_of_ours(package: str) -> None:
    ours = {"orchestrator", "trainables", "cluster", "tests"} - {package}
    for name, tree in sources(package):
        foreign = [found for found in imported(tree) if found.partition(".")[0] in ours]
        assert not foreign, f"{package}.{name} imports {foreign}"


def test_every_module_of_the_orchestrator_has_a_row() -> None:
    stated = {name for row in ROWS for name in row}
    assert stated == {name.partition(".")[0] for name, _ in sources("orchestrator") if name}


def test_rows_of_the_orchestrator_import_only_rows_before_them() -> None:
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    for name, tree in sources("orchestrator"):
        if not name:
            continue
        own = row_of[name.partition(".")[0]]
        for found in of("orchestrator", imported(tree)):
            head = found.partition(".")[0]
            assert row_of.get(head, 0) <= own, f"orchestrator.{name} imports {found}"


def test_what_the_orchestrator_imports_of_the_trainables() -> None:
    for name, tree in sources("orchestrator"):
        allowed = TRAINABLES_ANYWHERE | TRAINABLES_BY.get(name, set())
        for found in of("trainables", imported(tree)):
            assert {found, found.rpartition(".")[0]} & allowed, (
                f"orchestrator.{name} imports trainables.{found}"
            )


def test_only_the_workspace_and_the_command_line_know_the_cluster() -> None:
    users = {name for name, tree in sources("orchestrator") if [*of("cluster", imported(tree))]}
    assert users <= CLUSTER_BY
