"""The blocks of code on a page, and a process that runs them as a notebook does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.harness import FOREIGN_PREFIXES, RUN_TIMEOUT_S
from tests.support.paths import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# (\S+\.\w+)\n")
"""First line of a block that is a file."""
_NOTEBOOK = """
import ast, contextlib, io, json, sys
variables, shown = {}, []
for source in json.loads(sys.stdin.read()):
    *statements, last = ast.parse(source).body
    with contextlib.redirect_stdout(io.StringIO()) as output:
        is_value = isinstance(last, ast.Expr)
        body = statements if is_value else [*statements, last]
        exec(compile(ast.Module(body, []), "page", "exec"), variables)
        if is_value:
            value = eval(compile(ast.Expression(last.value), "page", "eval"), variables)
            if value is not None:
                print(repr(value))
    shown.append(output.getvalue())
with open(sys.argv[1], "w") as file:
    json.dump(shown, file)
"""
"""Runs blocks as a notebook does: the value of a last expression is shown."""


def files(page: Path) -> dict[str, str]:
    """Return the blocks that are files, by name."""
    texts = (text for _, text in _BLOCK.findall(page.read_text()))
    return {found[1]: text for text in texts if (found := _FILE.match(text))}


def cells(page: Path) -> list[tuple[str, str]]:
    """Return each block of code that is no file, with what the page says that it shows."""
    found: list[tuple[str, str]] = []
    for kind, text in _BLOCK.findall(page.read_text()):
        if kind == "python" and not _FILE.match(text):
            found.append((text, ""))
        elif kind == "text":
            found[-1] = (found[-1][0], text)
    return found


def run_cells(sources: Sequence[str], folder: Path, *packages: Path) -> list[str]:
    """Run blocks as one session in `folder`, and return what each one shows. `packages` are folders
    with installed packages."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
    path = ":".join(map(str, (ROOT, *packages)))
    done = subprocess.run(
        [sys.executable, "-c", _NOTEBOOK, "shown.json"],
        input=json.dumps(sources),
        cwd=folder,
        env={**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    # Nothing but what the blocks themselves print: not from Ray, from its workers or from torch.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    shown: list[str] = json.loads((folder / "shown.json").read_text())
    return shown
