"""Sources of tickets: their names in a sweep file, and sources from outside the package."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import ConfigError
from orchestrator.monitor.status import Status, render_status
from orchestrator.plan.graph import Plan
from orchestrator.report.data.figure_groups import figure_groups
from orchestrator.report.data.formatting import verdict_table
from orchestrator.report.data.tables import cell_scores, level_scores
from orchestrator.report.data.verdicts import curve_verdicts
from orchestrator.report.sections.headline import headline
from orchestrator.report.write import write_report
from orchestrator.sources import SOURCES, Style, TicketSource
from orchestrator.sources.names import find_source, parse_sources
from orchestrator.store.record import Record
from orchestrator.sweep.config import Win
from tests.support.plugins import registered
from tests.support.sweeps import plan_of, sweep_document
from trainables.pruning import PRUNERS, PruneMethod
from trainables.spec import PruneSpec
from trainables.user_modules import uninstall

RULE = Win(ratio=0.99, tolerance="none", seeds=2)
TASKS = {name: {"task": "easy_vqa", "data": f"/{name}"} for name in ("left", "right")}
BERT = {"architecture": "uniter", "size": "tiny", "weights": "/bert"}

LATE = """
from orchestrator.expand.builder import pruning_rule
from orchestrator.sources import Style, TicketSource

SOURCE = TicketSource(
    module=__name__, label="Late", chained=True, pruner_needs=("weights", "trained"),
    style=Style(dash=(), marker="P", color="#aa3377"),
)

def generate(builder, point):
    dense = builder.dense(point)
    for level in point.scored_levels():
        ticket = builder.prune(
            point, level, parents=(dense,), produced_by=dense, run=dense, **pruning_rule(point)
        )
        yield level, (builder.train(point, start=builder.start(point), ticket=ticket), ticket)
"""
PER_TENSOR = """
from orchestrator.sources import Style, TicketSource

SOURCE = TicketSource(
    module=__name__, label="per-tensor", noun="tickets drawn per tensor", role="control",
    style=Style(dash=(3, 1), marker="X"),
)

def generate(builder, point):
    for level in point.scored_levels():
        ticket = builder.prune(point, level, method="random", scope="layer", seed=point.seed)
        yield level, (builder.train(point, start=builder.start(point), ticket=ticket), ticket)
"""
SCORES = {"dense": 90.0, "imp": 90.0, "late": 89.5, "random": 60.0, "per_tensor": 70.0}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[str]]:
    """The user's own files with a source and a control."""
    texts = {"late": LATE, "per_tensor": PER_TENSOR}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield [str(tmp_path / f"{name}.py") for name in texts]
    uninstall()


def two_task_plan(files: list[str]) -> Plan:
    study = {"task": ["left", "right"], "seed": [0, 1], "tickets": ["imp", "late"]}
    document = sweep_document(**study, controls=["random", "per_tensor"])
    return plan_of(document | {"tasks": TASKS, "modules": files})


def records_of(plan: Plan, scores: Mapping[str, float] = SCORES) -> dict[str, Record]:
    """Return records in which every source has one score at all levels."""
    return {
        cell.trial: Record(
            key=cell.trial, kind="train", spec={}, scores={"score": scores[cell.curve.source]}
        )
        for cell in reversed(plan.cells)  # IMP's level 1 is the late one's too; the first has it
    }


def test_a_source_from_outside_is_in_tables_figures_and_the_headline(
    files: list[str], tmp_path: Path
) -> None:
    plan = two_task_plan(files)
    records = records_of(plan)
    report = write_report(
        plan, records, lambda sha256: pytest.fail(sha256), tmp_path, RULE, command="", failures={}
    )
    page = re.sub(r"<[^>]*>", " ", report.page.read_text())
    assert "IMP and Late tickets and their controls of the same size" in page
    assert [sentence.partition(" reach")[0] for sentence in report.headline] == [
        "uniter-tiny: IMP tickets",
        "uniter-tiny: Late tickets",
    ]
    details = headline(report.verdicts, RULE)[1]
    assert details[1].startswith(
        "uniter-tiny on left, recipe short: Late tickets reach 99 % of the dense score"
    )
    assert (
        "score 89.5 ± 0.0, random tickets 60.0 ± 0.0 and tickets drawn per tensor 70" in details[1]
    )

    header, rows = verdict_table(report.verdicts)
    there = header.index("per-tensor there")
    assert header[there - 2 : there] == ["random there", "layer-matched there"]
    by_name = {row[header.index("tickets")]: row for row in rows}
    assert [*by_name] == ["IMP θ₀", "Late θ₀", "per-tensor θ₀", "random θ₀"]
    assert by_name["Late θ₀"][there] == "70.0 ± 0.0 (2)"
    assert by_name["per-tensor θ₀"][there] == "–"  # it is not compared with itself

    table = (tmp_path / "tables" / "controls.md").read_text()
    assert re.findall(r"^\| (\S[^|]*?) +\|", table, re.M)[-5:] == [
        "IMP", "random", "Late", "per-tensor", "verdict on IMP",
    ]  # fmt: skip


def test_a_source_from_outside_has_its_style_in_the_legend(files: list[str]) -> None:
    plan = two_task_plan(files)
    levels = level_scores(cell_scores(plan, records_of(plan)))
    (group,) = figure_groups(levels)
    assert group.kind == "score"
    from orchestrator.report.page.curves import line_styles

    styles = {line: style for (line, _), style in line_styles(group).items()}
    late, control = styles["Late θ₀"], styles["per-tensor θ₀"]
    assert (late.dash, late.marker, late.color, late.strong) == ("-", "P", "#aa3377", True)
    assert (control.dash, control.marker, control.strong) == ((0, (3, 1)), "X", False)


def test_chains_of_a_source_from_outside_have_rows_in_the_status(files: list[str]) -> None:
    plan = two_task_plan(files)
    console = Console(file=io.StringIO(), width=200)
    console.print(render_status(plan, Status(records=records_of(plan)), "x.yaml"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"uniter-tiny right theta_0 Late +1 +●{5} +89\.5", text)
    assert re.search(r"^per_tensor +16/16 *$", text, re.M)


def test_a_report_shows_a_source_that_is_no_longer_installed(files: list[str]) -> None:
    plan = two_task_plan(files)
    uninstall()
    cells = cell_scores(plan, records_of(plan))
    verdicts = curve_verdicts(cells, RULE)
    (group,) = figure_groups(level_scores(cells))
    assert "late θ₀" in set(group.rows.line)
    assert {"late", "imp"} <= set(verdicts.source)
    assert all("IMP" in sentence for sentence in headline(verdicts, RULE)[0])


def test_tickets_of_a_source_from_outside_can_be_transferred(files: list[str]) -> None:
    entry = TicketSource(
        module="late", label="Late from {task}", parameter="task",
        optional=True, figure="transfer", applies="late",
    )  # fmt: skip
    with registered(SOURCES, "handed", entry):
        source = find_source("handed:vqa")
        assert (source.label, source.noun) == ("Late from vqa", "Late from vqa tickets")
        (parsed,) = parse_sources([], ["handed:vqa"], "studies.a")
        assert (parsed.reference, parsed.where) == (("task", "vqa"), "studies.a.controls")


@pytest.mark.parametrize("figure", ["weights", "transfer"])
def test_tickets_that_are_applied_elsewhere_must_say_whose_they_are(figure: str) -> None:
    with pytest.raises(ValueError, match="applies"):
        TicketSource(module="x", label="x", figure=figure)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lists", "key", "advice"),
    [
        ({"tickets": ["impp"]}, "studies.main.tickets = 'impp'", "did you mean `imp`?"),
        ({"controls": ["init"]}, "studies.main.controls = 'init'", "use init:MODEL"),
        ({"tickets": ["imp:left"]}, "studies.main.tickets = 'imp:left'", "use imp"),
        ({"tickets": ["init:brt"]}, "studies.main.tickets = 'brt'", "did you mean `bert`?"),
        ({"controls": ["transfer:lft"]}, "studies.main.controls = 'lft'", "did you mean `left`?"),
    ],
)
def test_an_unknown_source_is_refused_under_the_key_that_names_it(
    lists: dict[str, list[str]], key: str, advice: str
) -> None:
    content = sweep_document(task="left", **lists) | {"tasks": TASKS, "models": {"bert": BERT}}
    with pytest.raises(ConfigError, match=re.escape(key)) as caught:
        plan_of(content)
    assert advice in str(caught.value)


def test_both_lists_take_every_source() -> None:
    """A model or a task that a source names is resolved from either list."""
    content = sweep_document(task="left", tickets=["init:bert"], controls=["transfer:right"])
    plan = plan_of(content | {"tasks": TASKS, "models": {"bert": BERT}})
    assert {cell.curve.source for cell in plan.cells} == {"dense", "init:bert", "transfer:right"}


def test_a_data_free_method_gives_tickets_that_need_no_run() -> None:
    with registered(PRUNERS, "first_k", PruneMethod(module="first_k", needs="nothing")):
        plan = plan_of(sweep_document(tickets=["omp"], controls=[], pruner="first_k"))
    prunes = [trial for trial in plan if isinstance(trial.spec, PruneSpec)]
    assert len(prunes) == 4
    for trial in prunes:
        assert isinstance(trial.spec, PruneSpec)
        assert (trial.spec.run, trial.spec.start) == ("", None)
        assert (trial.parents, trial.produced_by) == ((), "")


def test_one_shot_pruning_refuses_a_method_that_needs_training() -> None:
    with registered(PRUNERS, "movement", PruneMethod(module="movement", needs="trained")):
        plan_of(sweep_document(tickets=["imp"], pruner="movement"))
        with pytest.raises(ConfigError, match=r"main\.tickets = 'omp' .* 'movement'.* use imp"):
            plan_of(sweep_document(tickets=["omp"], pruner="movement"))


def test_a_source_whose_function_is_missing_is_refused() -> None:
    with (
        registered(SOURCES, "broken", TicketSource(module="math", label="broken", style=Style())),
        pytest.raises(ConfigError, match=r"studies\.main\.tickets = 'broken' cannot be planned"),
    ):
        plan_of(sweep_document(tickets=["broken"]))


def test_without_found_tickets_the_headline_is_about_the_baselines() -> None:
    plan = plan_of(sweep_document(tickets=["omp"], seed=[0, 1]))
    records = records_of(plan, {"dense": 90.0, "omp": 89.5, "random": 89.9})
    ((sentence,), _) = headline(curve_verdicts(cell_scores(plan, records), RULE), RULE)
    assert "OMP tickets reach 99 % of the dense score" in sentence
    assert sentence.endswith(
        "Random tickets also reach the line, so it does not distinguish winning tickets here."
    )
