"""The page on the library: its blocks form one session, which shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.local import servers as local
from tests.support import pages
from tests.support.paths import ROOT

PAGE = ROOT / "orchestrator" / "library.md"
NUMBER = re.compile(r" *\d+(\.\d+)?")


def without_numbers(text: str) -> str:
    """Scores differ between kinds of machines, and with them the width of a column."""
    return NUMBER.sub(" #", text)


@pytest.mark.slow
def test_the_page_shows_what_its_code_does(tmp_path: Path) -> None:
    cells = pages.cells(PAGE)
    shown = pages.run_cells([source for source, _ in cells], tmp_path)
    for (source, expected), text in zip(cells, shown, strict=True):
        assert without_numbers(text) == without_numbers(expected), source
    assert local.stop_services(tmp_path / ".sweepstakes") == (), "a server was left"
