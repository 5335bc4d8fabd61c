"""Each package imports only allowed packages, and planning loads no heavy module."""

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
from tests.support.sweeps import sweep_document

LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "orchestrator": (
        ("__main__",),
        ("cli",),
        ("api", "testing"),
        ("tune",),
        ("worker", "monitor", "export", "report"),
        ("report.sections",),
        ("report.page",),
        ("report.data", "tracking", "ray_cluster"),
        ("cost", "expand"),
        ("schedule", "store"),
        ("sweep",),
        ("sources",),
        ("plan",),
        ("files", "credentials", "environment"),
        ("errors",),
    ),
    "trainables": (
        ("run_group",),
        ("testing",),
        ("run",),
        ("check", "headers", "parts"),
        ("training", "data.scenes"),
        ("tasks", "optim", "pruning"),
        ("data",),
        ("data.cache", "data.augmentation", "data.formats"),
        ("data.formats.uniter", "data.formats.vilt"),
        ("data.formats.lxmert",),
        ("data.formats.easy_vqa", "data.formats.json_stream", "data.formats.wordpiece"),
        ("data.schema",),
        ("tickets",),
        ("models", "distributed"),
        ("models.uniter", "models.lxmert", "models.vilt"),
        ("models.base", "models.attention", "models.checkpoint"),
        ("models.encoder",),
        ("models.entry",),
        ("seeds", "user_modules"),
        ("registry",),
        ("spec", "errors"),
    ),
    "cluster": (
        ("providers",),
        ("providers.kuberay",),
        ("providers.base",),
        ("local", "profile", "submit"),
        ("errors", "addresses"),
    ),
}
"""The layers of each top-level package, from the top down. A layer holds packages, and modules next
to them; each imports only from layers below its own."""

PURE = {
    *("plan", "sources", "sweep", "expand", "schedule", "cost"),
    *("files", "credentials", "environment", "errors"),
}
"""Packages of `orchestrator` that import nothing heavy, so that planning starts quickly."""
LIGHT = {
    *(
        "spec",
        "errors",
        "registry",
        "user_modules",
        "models",
        "tasks",
        "pruning",
        "parts",
        "data.augmentation",
        "optim",
        "optim.schedules",
        "training.recipe",
        "tickets",
        "data.fingerprint",
        "data.formats",
        "data.reference",
        "data.sizes",
        "data.schema.layouts",
        "check",
    ),
}
"""What every module of `orchestrator` may import from `trainables`: light modules, without
torch."""
TRAINABLES_IMPORTS = {
    "sweep.resolve": {"headers"},
    "worker.trial": {"run", "run_group", "training.sink", "tickets.base"},
    "worker.multi_node": {
        *("run", "run_group", "distributed.launch", "distributed.process", "training.sink"),
    },
    "worker.inputs": {"run", "tickets.base"},
    "export.weights": {"training.start", "tickets.base"},
    "api.modules": {"pruning.magnitude", "tickets.base", "tickets.weights"},
    "cli.data": {"data.check", "data.scenes"},
}
CLUSTER_IMPORTERS = {"api", "cli"}
"""Packages of `orchestrator` that may import `cluster`."""
CLUSTER_LIGHT = {"addresses"}
"""What every module of `orchestrator` may import from `cluster`. `cluster` starts the servers and
imports no other package, so what their addresses look like is written there."""

HEAVY = (
    *("ray", "torch", "deepspeed", "transformers", "mlflow", "matplotlib", "pandas"),
    *("numpy", "boto3", "pyarrow"),
)
REPORT_FORBIDDEN = ("ray", "torch", "deepspeed", "transformers", "mlflow")

PRINT_LOADED = """
import importlib, json, sys
modules, heavy = json.loads(sys.argv[1])
loaded = {}
for module in modules:
    importlib.import_module(module)
    loaded[module] = [name for name in heavy if name in sys.modules]
print(json.dumps(loaded))
"""

PLAN_WITHOUT_RAY_AND_TORCH = """
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
    """Return which of `heavy` are loaded after importing each module, one after another."""
    printed = python("-c", PRINT_LOADED, json.dumps([modules, heavy]))
    return dict(json.loads(printed))


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(package: str) -> dict[str, ast.Module]:
    """Return a map from dotted name within the package (without `__init__`) to syntax tree."""
    trees = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(), filename=str(path))
    return trees


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the absolute dotted names of what a module imports, under `TYPE_CHECKING` too:
    `from a import b` gives `a.b`, whether `b` is a module or a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "use absolute imports: this test reads packages from them"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(package: str, tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module imports from `package`, without the prefix `package`."""
    parts = (name.partition(".") for name in imported(tree))
    return (rest for first, _, rest in parts if first == package and rest)


def layered_package(package: str, name: str) -> str:
    """Return the entry of `LAYERS` that a module or an imported name belongs to: the longest
    match."""
    entries = [entry for layer in LAYERS[package] for entry in layer]
    matches = [entry for entry in entries if name == entry or name.startswith(f"{entry}.")]
    return max(matches, key=len, default="")


def pure_modules() -> tuple[str, ...]:
    """Return the modules of the pure packages, and the light ones of `trainables`."""
    pure = (
        name for name in sources("orchestrator") if layered_package("orchestrator", name) in PURE
    )
    return (
        "orchestrator",
        *(f"orchestrator.{name}" for name in pure),
        *(f"trainables.{name}" for name in LIGHT),
        *(f"cluster.{name}" for name in CLUSTER_LIGHT),
    )


def test_pure_modules_load_nothing_heavy() -> None:
    assert loaded(pure_modules(), HEAVY) == {module: [] for module in pure_modules()}


@pytest.mark.parametrize("module", ["orchestrator.report.write", "orchestrator.store.tickets"])
def test_reporting_needs_neither_ray_nor_torch_nor_mlflow(module: str) -> None:
    assert loaded((module,), REPORT_FORBIDDEN) == {module: []}


def test_planning_works_without_ray_and_torch(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(sweep_document()))
    printed = python(
        "-c", PLAN_WITHOUT_RAY_AND_TORCH, "--home", str(tmp_path), "plan", str(sweep), "--json"
    )
    assert json.loads(printed)["new_runs"] == 9


@pytest.mark.parametrize("package", LAYERS)
def test_every_package_has_a_layer_and_a_docstring(package: str) -> None:
    entries = {entry for layer in LAYERS[package] for entry in layer}
    used = {layered_package(package, name) for name in sources(package) if name}
    assert entries == used, "a package without a layer, or a layer without a package"
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    for folder in folders:
        name = ".".join(folder.relative_to(ROOT / package).parts)
        assert name in entries | {""}, f"{folder} has no layer"
        text = (folder / "__init__.py").read_text()
        assert ast.get_docstring(ast.parse(text)), f"{folder}: describe the package"


@pytest.mark.parametrize("package", LAYERS)
def test_packages_import_only_from_layers_below(package: str) -> None:
    depth_of = {entry: depth for depth, layer in enumerate(LAYERS[package]) for entry in layer}
    for name, tree in sources(package).items():
        importer = layered_package(package, name)
        for target in within(package, tree) if name else ():
            imported_package = layered_package(package, target)
            assert (
                imported_package in ("", importer)
                or depth_of[imported_package] > depth_of[importer]
            ), f"{package}.{name} imports {package}.{target}"


@pytest.mark.parametrize("package", LAYERS)
def test_imports_have_no_cycles(package: str) -> None:
    trees = sources(package)

    def module_of(name: str) -> str:
        return name if name in trees else name.rpartition(".")[0]

    graph = {
        name: {module_of(target) for target in within(package, tree)} - {name, ""}
        for name, tree in trees.items()
        if name
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("package", ["trainables", "cluster"])
def test_trainables_and_cluster_import_no_other_package_of_the_project(package: str) -> None:
    others = {"orchestrator", "trainables", "cluster", "tests"} - {package}
    for name, tree in sources(package).items():
        forbidden = [target for target in imported(tree) if target.partition(".")[0] in others]
        assert not forbidden, f"{package}.{name} imports {forbidden}"


def test_the_orchestrator_imports_only_listed_modules_of_trainables() -> None:
    for name, tree in sources("orchestrator").items():
        allowed = LIGHT | TRAINABLES_IMPORTS.get(name, set())
        for target in within("trainables", tree):
            assert {target, target.rpartition(".")[0]} & allowed, (
                f"orchestrator.{name} imports trainables.{target}"
            )


def test_only_the_api_and_the_command_line_import_the_cluster() -> None:
    importers = {
        layered_package("orchestrator", name)
        for name, tree in sources("orchestrator").items()
        if any(
            layered_package("cluster", target) not in CLUSTER_LIGHT
            for target in within("cluster", tree)
        )
    }
    assert importers == CLUSTER_IMPORTERS


def test_few_modules_are_outside_packages() -> None:
    assert len([*(ROOT / "orchestrator").glob("*.py")]) <= 10


def test_tests_are_in_the_folder_of_what_they_test() -> None:
    for package in LAYERS:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            folder = ROOT / path.parent.relative_to(ROOT / "tests")
            assert folder.is_dir(), f"{path} tests a package that does not exist"


def test_no_test_module_imports_another() -> None:
    for name, tree in sources("tests").items():
        for target in within("tests", tree):
            parts = target.split(".")
            assert not any(part.startswith("test_") or part == "conftest" for part in parts), (
                f"tests.{name} imports tests.{target}; put shared code in tests/support"
            )
