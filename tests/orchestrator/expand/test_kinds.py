"""Studies whose pruning method makes another kind of ticket, and methods that cannot make one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.plan.graph import Plan
from tests.support import plugins
from tests.support.paths import ROOT
from tests.support.sweeps import plan_of, sweep_document
from trainables.pruning import PRUNERS, PruneMethod
from trainables.spec import PruneSpec, TrainSpec
from trainables.tickets import TICKET_KINDS
from trainables.user_modules import uninstall

TOY = ROOT / "tests/support/toy_kind.py"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    uninstall()


def planned(file: Path) -> Plan:
    document = sweep_document(
        pruner="toy", tickets=["imp", "omp"], controls=["random", "random_layerwise"]
    )
    return plan_of(document | {"pruners": {"toy": {"module": str(file)}}})


def test_all_tickets_of_a_study_are_of_its_methods_kind_and_their_source_is_in_the_keys(
    tmp_path: Path,
) -> None:
    plan = planned(TOY)
    specs = [trial.spec for trial in plan if isinstance(trial.spec, PruneSpec)]
    assert {spec.method for spec in specs} == {"toy_kind", "random"}
    assert {(spec.ticket_kind, spec.kind_source) for spec in specs} == {
        ("toy_kind", TICKET_KINDS.source_of("toy_kind"))
    }

    changed = tmp_path / "toy_kind.py"
    changed.write_text(TOY.read_text() + "# changed\n")
    same = planned(changed).trials.keys() & plan.trials.keys()
    dense = [key for key in same if isinstance(plan.trials[key].spec, TrainSpec)]
    assert len(dense) == len(same) == 1


def test_one_search_run_serves_all_levels_and_controls_copy_its_counts() -> None:
    document = sweep_document(pruner="toy", tickets=["search"], controls=["random_layerwise"])
    file = ROOT / "tests/support/toy_search.py"
    plan = plan_of(document | {"pruners": {"toy": {"module": str(file)}}})
    trials = {trial.key: trial for trial in plan}
    searches = [t for t in plan if isinstance(t.spec, TrainSpec) and t.spec.search is not None]
    assert len(searches) == 1
    found = [t for t in plan if t.produced_by == searches[0].key]
    assert [trial.level for trial in found] == [1, 2, 3, 4]
    alike = [t.spec for t in plan if isinstance(t.spec, PruneSpec) and t.spec.like]
    assert {spec.like for spec in alike} == {trial.key for trial in found}
    assert all(isinstance(trials[cell.trial].spec, TrainSpec) for cell in plan.cells)
    assert searches[0].key not in {cell.trial for cell in plan.cells}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (PruneMethod(module="absent", needs="trained"), "needs the weights at the end of"),
        (PruneMethod(module="absent", needs="search"), "needs .* search"),
        (PruneMethod(module="absent", needs="weights", kinds=("feathers",)), "'feathers'"),
    ],
)
def test_a_ticket_that_the_method_cannot_make_is_refused_while_planning(
    entry: PruneMethod, message: str
) -> None:
    document = sweep_document(pruner="own", tickets=["omp"], controls=[])
    with (
        plugins.registered(PRUNERS, "own", entry),
        pytest.raises(ConfigError, match=message) as caught,
    ):
        plan_of(document)
    assert "\n" not in str(caught.value)


def test_a_search_that_varies_the_weights_of_a_step_needs_stage_0_or_one_worker() -> None:
    entry = PruneMethod(module="absent", needs="search", varies_parameters=True)
    document = sweep_document(pruner="own", recipe="r", tickets=["search"], controls=[])
    with plugins.registered(PRUNERS, "own", entry):
        for zero, workers in ((0, 2), (2, 1), (2, 2)):
            several = {"recipes": {"r": {"zero": zero}}, "placement": {"workers": workers}}
            if (zero, workers) != (2, 2):
                assert plan_of(document | several)
                continue
            message = r"studies\.\w+\.pruner = 'own': recipe\.zero = 2 .* the search own with 2"
            with pytest.raises(ConfigError, match=message):
                plan_of(document | several)


@pytest.mark.parametrize("needs", ["nothing", "weights"])
def test_a_method_that_needs_no_training_is_planned_without_a_run(needs: str) -> None:
    document = sweep_document(pruner="own", tickets=["omp"], controls=[])
    entry = PruneMethod(module="absent", needs=needs)  # type: ignore[arg-type]
    with plugins.registered(PRUNERS, "own", entry):
        tickets = [trial for trial in plan_of(document) if isinstance(trial.spec, PruneSpec)]
    assert len(tickets) == 4
    assert {trial.produced_by for trial in tickets} == {""}
