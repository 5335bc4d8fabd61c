"""The written report, and the page as headless Chromium sees it."""

from __future__ import annotations

import html
import html.parser
import itertools
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.report import ReportFiles, write_report
from orchestrator.sweep.config import Win
from tests.support import paper_report as paper
from tests.support.report_rows import World, make_ticket, quickstart

RULE = Win(ratio=0.99, tolerance="one_sd", seeds=2)
COMMAND = "sweepstakes run configs/quickstart.yaml"


def write(world: World, out: Path, failures: dict[str, str] | None = None) -> ReportFiles:
    return write_report(
        world.plan(), world.records, world.fetch, out, RULE, command=COMMAND,
        failures=failures or {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write(quickstart(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The paper's whole grid, not quite finished."""
    return write(paper.whole(missing=60), tmp_path_factory.mktemp("study"))


def titles(report: ReportFiles) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", report.page.read_text())


def test_a_section_is_there_if_there_is_something_to_say(
    report: ReportFiles, study: ReportFiles
) -> None:
    always = ["Winning tickets", "The tickets", "Studies", "Costs", "Every cell", "Environment",
              "Do it again"]  # fmt: skip
    first = ["Score against sparsity", "Tickets and their controls"]
    assert titles(report) == [*first, "Rewinding", *always]
    assert titles(study) == [
        *first, "Tickets from pre-training", "Transfer between tasks", "Rewinding",
        "Adversarial training", *always[:2], "The paper’s numbers", *always[2:],
    ]  # fmt: skip


def test_the_whole_grid_is_a_few_figures(study: ReportFiles) -> None:
    """118 curves: a figure for each question of each model, not for each task."""
    kinds = Counter(path.name.partition("-")[0] for path in study.figures)
    assert kinds == {
        "score": 3, "transfer": 1, "matrix": 1, "matrices": 1, "rewinding": 1, "adversarial": 1,
        "overlap": 7, "layers": 3,
    }  # fmt: skip
    svg = next(p for p in study.figures if p.name.startswith("score-uniter")).with_suffix(".svg")
    assert svg.read_text().count(">IMP θ₀<") == 1  # one legend for eight panels
    assert "retrieval TR" in svg.read_text()


def test_many_verdicts_are_told_in_short(study: ReportFiles) -> None:
    assert [text.partition(":")[0] for text in study.headline] == ["uniter", "lxmert", "vilt"]
    assert "on 8 of 11 columns, from 50 % sparsity (vcr) to 70 % (vqa)" in study.headline[0]
    text = html.unescape(study.page.read_text()).replace("\u00a0", " ")
    assert "uniter on vcr: IMP tickets reach 99 % of the dense score of 54.4 ± 0.3" in text


def test_all_forms_are_written_and_agree(report: ReportFiles) -> None:
    folder = report.page.parent
    names = {path.name for path in report.tables}
    for name in ("cells", "levels", "verdicts", "overlaps"):
        assert {f"{name}.{end}" for end in ("md", "csv", "parquet")} <= names
    read = pd.read_parquet(folder / "tables" / "verdicts.parquet")
    again = pd.read_csv(folder / "tables" / "verdicts.csv").astype(read.dtypes)
    again = again.fillna({"metric": "", "part": ""})
    pd.testing.assert_frame_equal(read, again, check_dtype=False)
    assert len(pd.read_parquet(folder / "tables" / "cells.parquet")) == 110
    for figure in report.figures:
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert "<svg" in figure.with_suffix(".svg").read_text()
    assert {figure.name.split("-")[0] for figure in report.figures} == {
        "score", "overlap", "layers",
    }  # fmt: skip
    assert not list(folder.rglob(".*")), "scratch files are left"


def test_long_tables_are_cut_short_for_people_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.report.write.MOST_ROWS", 20)
    report = write(quickstart(), tmp_path)
    text = report.page.read_text()
    assert "here are the first 20, all are in tables/cells.csv" in text
    every = text.partition("<h2>Every cell</h2>")[2].partition("</section>")[0]
    assert every.count("<tr>") == 1 + 20
    tables = tmp_path / "tables"
    assert (tables / "cells.md").read_text().endswith("first 20 of 110 rows; cells.csv has all.\n")
    assert len(pd.read_csv(tables / "cells.csv")) == 110


def test_the_same_records_give_the_same_bytes(report: ReportFiles, tmp_path: Path) -> None:
    again = write(quickstart(), tmp_path)
    assert again.page.read_bytes() == report.page.read_bytes()


def test_the_headline_is_computed(report: ReportFiles) -> None:
    (text,) = report.headline
    assert "99 % of the dense score of 93.2 ± 1.1 at up to 90 % sparsity" in text
    assert "from θ₆₀ they score 94.4 ± 0.3" in text
    assert "Random tickets of that size score 85.5 ± 1.2" in text
    assert "67.0" in text


def test_a_partial_sweep_says_so(tmp_path: Path) -> None:
    world = quickstart(missing=40)
    lost = world.cells[-1].ticket
    report = write(world, tmp_path, {lost: "CheckpointError: missing <weights>"})
    text = html.unescape(report.page.read_text())
    assert "138 of 200" in text
    assert "70 of 110" in text
    assert "CheckpointError: missing <weights>" in text
    assert "Not scored yet: 4 cells of these" in report.headline[0]
    shown = re.findall(r"<td[^>]*>(missing|blocked)</td>", text)
    assert sorted(shown) == ["blocked"] + ["missing"] * 39


def test_nothing_run_yet_is_a_report_too(tmp_path: Path) -> None:
    report = write(quickstart(missing=110), tmp_path)
    assert report.figures == ()
    assert "no verdict yet" in report.headline[0]


def test_every_source_and_schedule_is_drawn(tmp_path: Path) -> None:
    world = World()
    world.cell("dense", 0, 0.0, 0, 80.0)
    sources = ("imp", "omp", "random", "random_layerwise", "reinit", "shuffle_within",
               "shuffle_across", "transfer:other", "transfer:third")  # fmt: skip
    for source, rewind, level in itertools.product(sources, (0, 60), (1, 2, 3)):
        for schedule, sparsity in (("linear 0.3", level * 0.3), ("geometric 0.2", 1 - 0.8**level)):
            world.cell(source, level, sparsity, 0, 79.0, rewind=rewind, schedule=schedule)
    report = write_report(
        world.plan(), world.records, lambda _: make_ticket(0.5, seed=0, of="imp"),
        tmp_path, RULE, command=COMMAND, failures={},
    )  # fmt: skip
    drawn = Counter(path.name.partition("-")[0] for path in report.figures)
    # 18 lines are too many for one figure: two schedules, and two rewind points where they differ.
    assert drawn == {
        "score": 2, "weights": 4, "transfer": 4, "rewinding": 2, "matrix": 4, "matrices": 4,
        "overlap": 1, "layers": 1,
    }  # fmt: skip
    texts = {path.name: path.with_suffix(".svg").read_text() for path in report.figures}
    for kind, name in (
        ("transfer", "from other"), ("score", "OMP θ₀"), ("weights", "IMP, new init"),
        ("score", "layer-matched θ₀"), ("rewinding", "IMP θ₆₀"), ("weights", "dense 80.0"),
    ):  # fmt: skip
        assert any(name in text for file, text in texts.items() if file.startswith(kind)), name


def test_labels_are_text_not_markup(tmp_path: Path) -> None:
    world = World("<b>sweep</b>")
    for seed in range(2):
        world.cell("dense", 0, 0.0, seed, 80.0, study="<script>x</script>", model="$a_b$ & <i>")
        world.cell("imp", 5, 0.5, seed, 80.0, study="<script>x</script>", model="$a_b$ & <i>")
    page = write(world, tmp_path).page.read_text()
    assert "<script" not in page
    assert "<b>sweep" not in page
    assert "$a_b$ &amp; &lt;i&gt;" in page


class _Links(html.parser.HTMLParser):
    """Collects every attribute through which a page can load something."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        wanted = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.loads += [value or "" for name, value in attrs if name in wanted]


@pytest.mark.parametrize("which", ["report", "study"])
def test_the_page_stands_alone(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which).page.read_text()
    links = _Links()
    links.feed(text)
    assert [value for value in links.loads if not value.startswith("#")] == []
    assert not links.tags & {"script", "link", "iframe", "img", "object", "embed"}
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("chromium is not installed; `apt-get install chromium`")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


def visit(page: Path, width: int, folder: Path) -> tuple[str, list[str]]:
    """The DOM of `page` after loading at `width` pixels, and what it wrote to the console."""
    command = [
        _chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
        "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


# The report forbids scripts, so a page around it looks inside: a frame of the wanted width.
MEASURE = """<!DOCTYPE html><body style="margin:0"><pre id="found"></pre>
<iframe id="frame" width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>
<script>
const frame = document.getElementById("frame");
frame.addEventListener("load", () => {{
  const inside = frame.contentDocument, root = inside.documentElement;
  const wide = [...inside.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, .plot, pre") && e.getBoundingClientRect().right > root.clientWidth + 1);
  document.getElementById("found").textContent = JSON.stringify({{
    viewport: root.clientWidth, content: root.scrollWidth, wide: wide.length,
    text: Math.min(...[...inside.querySelectorAll("p, td, th, li span, figcaption")].map(
      e => parseFloat(frame.contentWindow.getComputedStyle(e).fontSize))),
    figures: inside.querySelectorAll("figure svg").length,
  }});
}});
</script>"""


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("which", ["report", "study"])
def test_the_page_fits_the_screen(
    which: str, width: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = request.getfixturevalue(which)
    around = tmp_path / "around.html"
    page = html.escape(files.page.read_text(), quote=True)
    around.write_text(MEASURE.format(width=width, page=page))
    dom, console = visit(around, 1600, tmp_path)
    assert console == []
    found = re.search(r'<pre id="found">(\{.*?\})</pre>', dom)
    assert found, "the page did not load"
    seen = json.loads(html.unescape(found.group(1)))
    assert seen["content"] == seen["viewport"], "the page scrolls sideways"
    assert seen["viewport"] in (width, width - 15)  # a scroll bar may take its share
    assert seen["wide"] == 0
    assert seen["text"] >= 12
    assert seen["figures"] == len(files.figures)


def test_the_page_loads_without_a_word(report: ReportFiles, tmp_path: Path) -> None:
    dom, console = visit(report.page, 1400, tmp_path)
    assert "Winning tickets" in dom
    assert console == []


def test_an_outside_request_would_be_heard(report: ReportFiles, tmp_path: Path) -> None:
    """The control of the two tests above: the console does report what they look for."""
    broken = tmp_path / "broken.html"
    text = report.page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    broken.write_text(text)
    _, console = visit(broken, 1400, tmp_path)
    assert console
