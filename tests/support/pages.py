"""The blocks of code on a page, and a process that runs them as a notebook does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.harness import COMMAND_ENVIRONMENT, FOREIGN_PREFIXES, wait_for_exit
from tests.support.paths import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# (\S+\.\w+)\n")
"""First line of a block that is a file."""
_NOTEBOOK = """
import ast, contextlib, io, json, sys
variables, shown = {}, []
with open(sys.argv[1]) as file:
    sources = json.load(file)
for source in sources:
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
with open(sys.argv[2], "w") as file:
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
    (folder / "cells.json").write_text(json.dumps(sources))
    session = subprocess.Popen(
        [sys.executable, "-c", _NOTEBOOK, "cells.json", "shown.json"],
        cwd=folder,
        env={**inherited, **COMMAND_ENVIRONMENT, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = wait_for_exit(session)
    # Nothing but what the blocks themselves print: not from Ray, from its workers or from torch.
    assert (done.code, done.out, done.err) == (0, "", ""), done.err
    shown: list[str] = json.loads((folder / "shown.json").read_text())
    return shown
