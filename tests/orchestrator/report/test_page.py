"""Test the written report, and the page in headless Chromium."""

from __future__ import annotations

import html
import html.parser
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.report import write
from orchestrator.report.write import ReportFiles, write_report
from orchestrator.sweep.config import Win
from tests.support import paper_report as paper
from tests.support.browser import visit
from tests.support.synthetic_sweep import SyntheticSweep, quickstart_sweep, synthetic_ticket

RULE = Win(ratio=0.99, tolerance="one_sd", seeds=2)
COMMAND = "sweepstakes run configs/quickstart.yaml"


def write_sweep_report(
    sweep: SyntheticSweep, out: Path, failures: dict[str, str] | None = None
) -> ReportFiles:
    return write_report(
        sweep.plan(), sweep.records, sweep.fetch_ticket, out, RULE, command=COMMAND,
        failures=failures or {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write_sweep_report(quickstart_sweep(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """Write a report on the paper's full grid, with 60 missing scores."""
    return write_sweep_report(paper.full_grid(missing=60), tmp_path_factory.mktemp("study"))


def titles(report: ReportFiles) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", report.page.read_text())


def test_the_page_has_sections_for_available_data_only(
    report: ReportFiles, study: ReportFiles
) -> None:
    common = ["Winning tickets", "The tickets", "Studies", "Costs", "All cells", "Environment",
              "Reproduce"]  # fmt: skip
    first = ["Score against sparsity", "Tickets and their controls"]
    assert titles(report) == [*first, "Rewinding", *common]
    assert titles(study) == [
        *first, "Tickets from pre-training", "Transfer between tasks", "Rewinding",
        "Adversarial training", *common[:2], "The paper’s numbers", *common[2:],
    ]  # fmt: skip


def test_the_full_grid_has_few_figures(study: ReportFiles) -> None:
    """118 curves give one figure for each question and model, not for each task."""
    kinds = Counter(path.name.partition("-")[0] for path in study.figures)
    assert kinds == {
        "score": 3, "transfer": 1, "matrix": 1, "matrices": 1, "rewinding": 1, "adversarial": 1,
        "overlap": 7, "layers": 3,
    }  # fmt: skip
    svg = next(p for p in study.figures if p.name.startswith("score-uniter")).with_suffix(".svg")
    assert svg.read_text().count(">IMP θ₀<") == 1  # one legend for eight panels
    assert "retrieval TR" in svg.read_text()


def test_many_verdicts_give_a_short_headline(study: ReportFiles) -> None:
    assert [text.partition(":")[0] for text in study.headline] == ["uniter", "lxmert", "vilt"]
    assert "on 8 of 11 columns, from 50 % sparsity (vcr) to 70 % (vqa)" in study.headline[0]
    text = html.unescape(study.page.read_text()).replace("\u00a0", " ")
    assert "uniter on vcr: IMP tickets reach 99 % of the dense score of 54.4 ± 0.3" in text


def test_all_file_formats_are_written_and_agree(report: ReportFiles) -> None:
    folder = report.page.parent
    names = {path.name for path in report.tables}
    for name in ("cells", "levels", "verdicts", "overlaps"):
        assert {f"{name}.{end}" for end in ("md", "csv", "parquet")} <= names
    from_parquet = pd.read_parquet(folder / "tables" / "verdicts.parquet")
    from_csv = pd.read_csv(folder / "tables" / "verdicts.csv").astype(from_parquet.dtypes)
    from_csv = from_csv.fillna({"metric": "", "variant": ""})
    pd.testing.assert_frame_equal(from_parquet, from_csv, check_dtype=False)
    assert len(pd.read_parquet(folder / "tables" / "cells.parquet")) == 110
    for figure in report.figures:
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert "<svg" in figure.with_suffix(".svg").read_text()
    assert {figure.name.split("-")[0] for figure in report.figures} == {
        "score", "overlap", "layers",
    }  # fmt: skip
    assert not list(folder.rglob(".*")), "temporary files are left"


def test_long_tables_are_shortened_on_the_page_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MAX_TABLE_ROWS", 20)
    report = write_sweep_report(quickstart_sweep(), tmp_path)
    text = report.page.read_text()
    assert "the first 20 are shown, all are in tables/cells.csv" in text
    all_cells = text.partition("<h2>All cells</h2>")[2].partition("</section>")[0]
    assert all_cells.count("<tr>") == 1 + 20
    tables = tmp_path / "tables"
    assert (tables / "cells.md").read_text().endswith("first 20 of 110 rows; cells.csv has all.\n")
    assert len(pd.read_csv(tables / "cells.csv")) == 110


def test_the_same_records_give_the_same_bytes(report: ReportFiles, tmp_path: Path) -> None:
    again = write_sweep_report(quickstart_sweep(), tmp_path)
    assert again.page.read_bytes() == report.page.read_bytes()


def test_the_headline_has_the_scores(report: ReportFiles) -> None:
    (text,) = report.headline
    assert "99 % of the dense score of 93.2 ± 1.1 at up to 90 % sparsity" in text
    assert "At that sparsity, tickets from θ₆₀ score 94.4 ± 0.3" in text
    assert "random tickets 85.5 ± 1.2" in text
    assert "67.0" in text


def test_the_report_of_a_partial_sweep_shows_what_is_missing(tmp_path: Path) -> None:
    sweep = quickstart_sweep(missing=40)
    failed = sweep.cells[-1].ticket
    report = write_sweep_report(sweep, tmp_path, {failed: "CheckpointError: missing <weights>"})
    text = html.unescape(report.page.read_text())
    assert "138 of 200" in text
    assert "70 of 110" in text
    assert "CheckpointError: missing <weights>" in text
    assert "Not scored yet: 4 of these cells" in report.headline[0]
    states = re.findall(r"<td[^>]*>(missing|blocked)</td>", text)
    assert sorted(states) == ["blocked"] + ["missing"] * 39


def test_a_sweep_without_records_has_a_report(tmp_path: Path) -> None:
    report = write_sweep_report(quickstart_sweep(missing=110), tmp_path)
    assert report.figures == ()
    assert "no verdict yet" in report.headline[0]


def test_every_source_and_schedule_has_a_figure(tmp_path: Path) -> None:
    sweep = SyntheticSweep()
    sweep.add_cell("dense", 0, 0.0, 0, 80.0)
    sources = ("imp", "omp", "random", "random_layerwise", "reinit", "shuffle_within",
               "shuffle_across", "transfer:other", "transfer:third")  # fmt: skip
    for source, rewind, level in itertools.product(sources, (0, 60), (1, 2, 3)):
        for schedule, sparsity in (("linear 0.3", level * 0.3), ("geometric 0.2", 1 - 0.8**level)):
            sweep.add_cell(source, level, sparsity, 0, 79.0, rewind=rewind, schedule=schedule)
    report = write_report(
        sweep.plan(), sweep.records, lambda _: synthetic_ticket(0.5, seed=0, of="imp"),
        tmp_path, RULE, command=COMMAND, failures={},
    )  # fmt: skip
    drawn = Counter(path.name.partition("-")[0] for path in report.figures)
    # 18 lines do not fit in one figure: one per schedule, and per rewind point for some kinds.
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


def test_labels_are_escaped(tmp_path: Path) -> None:
    sweep = SyntheticSweep("<b>sweep</b>")
    for seed in range(2):
        sweep.add_cell("dense", 0, 0.0, seed, 80.0, study="<script>x</script>", model="$a_b$ & <i>")
        sweep.add_cell("imp", 5, 0.5, seed, 80.0, study="<script>x</script>", model="$a_b$ & <i>")
    page = write_sweep_report(sweep, tmp_path).page.read_text()
    assert "<script" not in page
    assert "<b>sweep" not in page
    assert "$a_b$ &amp; &lt;i&gt;" in page


class _Links(html.parser.HTMLParser):
    """Collects the values of all attributes through which a page can load a resource."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        loading = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.loads += [value or "" for name, value in attrs if name in loading]


@pytest.mark.parametrize("which", ["report", "study"])
def test_the_page_is_self_contained(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which).page.read_text()
    links = _Links()
    links.feed(text)
    assert [value for value in links.loads if not value.startswith("#")] == []
    assert not links.tags & {"script", "link", "iframe", "img", "object", "embed"}
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


# The report forbids scripts, so an outer page measures it in a frame of the given width.
MEASURE = """<!DOCTYPE html><body style="margin:0"><pre id="result"></pre>
<iframe id="frame" width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>
<script>
const frame = document.getElementById("frame");
frame.addEventListener("load", () => {{
  const inside = frame.contentDocument, root = inside.documentElement;
  const wide = [...inside.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, .plot, pre") && e.getBoundingClientRect().right > root.clientWidth + 1);
  document.getElementById("result").textContent = JSON.stringify({{
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
    dom, console = visit(around.as_uri(), 1600, tmp_path)
    assert console == []
    result = re.search(r'<pre id="result">(\{.*?\})</pre>', dom)
    assert result, "the page did not load"
    measured = json.loads(html.unescape(result.group(1)))
    assert measured["content"] == measured["viewport"], "the page scrolls sideways"
    assert measured["viewport"] in (width, width - 15)  # a scroll bar may take 15 pixels
    assert measured["wide"] == 0
    assert measured["text"] >= 12
    assert measured["figures"] == len(files.figures)


def test_the_page_loads_without_console_messages(report: ReportFiles, tmp_path: Path) -> None:
    dom, console = visit(report.page.as_uri(), 1400, tmp_path)
    assert "Winning tickets" in dom
    assert console == []


def test_an_outside_request_gives_a_console_message(report: ReportFiles, tmp_path: Path) -> None:
    """Control of the two tests above: the console does report blocked requests."""
    broken = tmp_path / "broken.html"
    text = report.page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    broken.write_text(text)
    _, console = visit(broken.as_uri(), 1400, tmp_path)
    assert console
