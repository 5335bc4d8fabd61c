"""The image: pinned packages, no root, and the programs that both providers need."""

from __future__ import annotations

import re
import tomllib

from tests.support.paths import ROOT

LINES = re.sub(r"\\\n\s*", "", (ROOT / "cluster/Dockerfile").read_text()).splitlines()
STEPS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith("#")]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def test_its_python_is_supported_by_the_project() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (base,) = arguments("FROM")
    assert f">={base.removeprefix('python:').partition('-')[0]}" in required


def test_its_packages_are_pinned() -> None:
    (install,) = (step for step in arguments("RUN") if "pip install" in step)
    assert "-c constraints.txt" in install
    pinned = {line.partition("==")[0].lower() for line in constraints() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in (*project["dependencies"], *project["optional-dependencies"]["cluster"]):
        assert re.split(r"[\[<>=]", package)[0].lower() in pinned


def constraints() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


def test_it_does_not_run_as_root() -> None:
    assert arguments("USER") == ["ray"]
    after = [name for name, _ in STEPS[[name for name, _ in STEPS].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & {*after}


def test_it_has_the_programs_that_kuberay_and_ray_up_run() -> None:
    (install,) = (step for step in arguments("RUN") if "apt-get install" in step)
    assert {"bash", "wget", "rsync"} <= {*install.split()}


def test_the_build_context_has_only_copied_files() -> None:
    ignored = (ROOT / "cluster/Dockerfile.dockerignore").read_text().splitlines()
    included = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for step in arguments("COPY") for source in step.split()[:-1]}
    assert "*" in ignored
    assert included == copied
    assert all((ROOT / source).exists() for source in copied)
