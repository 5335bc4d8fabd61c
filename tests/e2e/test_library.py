"""The page on the library: its blocks form one session, which shows what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local import servers as local
from tests.support.harness import FOREIGN_PREFIXES, RUN_TIMEOUT_S
from tests.support.paths import ROOT

PAGE = ROOT / "orchestrator" / "library.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r" *\d+(\.\d+)?")
NOTEBOOK = """
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


def cells() -> list[tuple[str, str]]:
    """Return each block of code with what the page says that it shows."""
    found: list[tuple[str, str]] = []
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind == "python":
            found.append((text, ""))
        else:
            found[-1] = (found[-1][0], text)
    return found


def without_numbers(text: str) -> str:
    """Scores differ between kinds of machines, and with them the width of a column."""
    return NUMBER.sub(" #", text)


@pytest.mark.slow
def test_the_page_shows_what_its_code_does(tmp_path: Path) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK, "shown.json"],
        input=json.dumps([source for source, _ in cells()]),
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    # Nothing but what the blocks themselves print: not from Ray, from its workers or from torch.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shown = json.loads((tmp_path / "shown.json").read_text())
    for (source, expected), text in zip(cells(), shown, strict=True):
        assert without_numbers(text) == without_numbers(expected), source
    assert local.stop_services(tmp_path / ".sweepstakes") == (), "a server was left"
