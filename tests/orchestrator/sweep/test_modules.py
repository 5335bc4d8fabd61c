"""Parts from the user's own files: their names, their keys, their errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.workspace import PlannedSweep, import_files, plan_sweep
from orchestrator.errors import ConfigError
from orchestrator.sources.names import find_source
from tests.support import own_files, toy_runs
from tests.support.sweeps import sweep_document, write_sweep
from trainables.pruning import PRUNERS
from trainables.spec import PruneSpec, RewindSpec, TrainSpec
from trainables.tasks import TASKS
from trainables.user_modules import uninstall

OTHER_PARTS = """
from orchestrator.schedule.strategy import StrategyEntry
from orchestrator.sources import TicketSource
from trainables.optim import OptimizerEntry

OPTIMIZER = OptimizerEntry(module=__name__)
SOURCE = TicketSource(module=__name__, label="mine", role="control")


class Nothing:
    def wanted(self, plan, results):
        return ()


STRATEGY = StrategyEntry(create=lambda sweep: Nothing())


def generate(builder, point):
    for level in point.scored_levels():
        ticket = builder.prune(point, level, method="random", seed=7)
        yield level, (builder.train(point, start=builder.start(point), ticket=ticket), ticket)
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    uninstall()


MODULES = {
    "descent": own_files.OPTIMIZER,
    "lottery": own_files.SOURCE,
    "dense_runs": own_files.STRATEGY,
}


def sweep_with_modules(folder: Path) -> dict[str, Any]:
    """Write the files, and return a sweep that uses all of them."""
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    study = {"tickets": ["lottery"], "recipe": "descent", "controls": []}
    return sweep_document(**study) | {
        "modules": [str(folder / f"{name}.py") for name in MODULES],
        "recipes": {"descent": {"optimizer": "descent", "weight_decay": 0.0}},
        "strategy": "dense_runs",
    }


def planned(folder: Path, content: dict[str, Any]) -> PlannedSweep:
    return plan_sweep(write_sweep(folder, content), folder / "home")


def test_the_source_of_a_file_is_part_of_the_keys_of_the_trials_that_use_it(tmp_path: Path) -> None:
    content = own_files.write_own_files(tmp_path)
    sweep = planned(tmp_path, content)
    assert {module.name for module in sweep.inputs.modules} == {"my_task", "first_weights"}
    assert set(sweep.inputs.locations().values()) == {str(TASKS["easy_vqa"].shipped_data())}
    for trial in sweep.plan:
        if isinstance(trial.spec, TrainSpec):
            assert trial.spec.task.name == "my_task"
            assert trial.spec.recipe.steps == 4
        elif isinstance(trial.spec, PruneSpec) and trial.spec.method != "random":
            assert trial.spec.method == "first_weights"
    assert planned(tmp_path, content).plan.trials.keys() == sweep.plan.trials.keys()

    file = tmp_path / "first_weights.py"
    file.write_text(file.read_text() + "# changed\n")
    changed = planned(tmp_path, content).plan.trials
    same = changed.keys() & sweep.plan.trials.keys()
    # The dense run, the random ticket and its run do not depend on the pruning method.
    assert len(same) == 3
    assert len(changed) == len(sweep.plan.trials) == 5


def test_a_sweep_can_name_every_part_of_a_file(tmp_path: Path) -> None:
    content = own_files.write_own_files(tmp_path)
    (tmp_path / "my_task.py").write_text(own_files.TASK + OTHER_PARTS)
    content["studies"]["main"] |= {"controls": ["my_task"], "recipe": "mine"}
    content |= {"recipes": {"mine": {"optimizer": "my_task"}}, "strategy": "my_task"}
    sweep = planned(tmp_path, content)
    source = TASKS.source_of("my_task")
    runs = [trial.spec for trial in sweep.plan if isinstance(trial.spec, TrainSpec)]
    assert {run.sources for run in runs} == {(("sweepstakes.optimizers/my_task", source),)}
    assert "my_task" in {cell.curve.source for cell in sweep.plan.cells}
    assert sweep.skipped({}) == sweep.plan.trials.keys()


def toy_sweep(folder: Path, **model: Any) -> dict[str, Any]:
    """Return a sweep of the toy model, whose file has a task too, on generated data."""
    file = str(toy_runs.FILE)
    data = str(toy_runs.write_data(folder / "textures"))
    study = {"model": "toy", "task": "textures", "recipe": "default", "controls": ["random"]}
    return sweep_document(**study) | {
        "models": {"toy": {"module": file, "size": "tiny"} | model},
        "tasks": {"textures": {"module": file, "data": data}},
    }


def test_a_model_in_a_file_prunes_its_own_default_pool(tmp_path: Path) -> None:
    sweep = planned(tmp_path, toy_sweep(tmp_path, overrides={"hidden_size": 16}))
    assert {module.name for module in sweep.inputs.modules} == {"toy_model"}
    convolutions = 16 * 3 * 9 + 4 * 256 * 9
    assert sweep.pools() == {"toy": {"convolutions": convolutions, "blocks": 4 * 256 * 9}}
    for trial in sweep.plan:
        assert not isinstance(trial.spec, RewindSpec)
        assert trial.spec.model.source == toy_runs.module().sha256
        if isinstance(trial.spec, PruneSpec):
            assert trial.spec.pool == "convolutions"


def test_a_model_in_a_file_is_checked_while_planning(tmp_path: Path) -> None:
    content = toy_sweep(tmp_path, overrides={"image_size": 7})
    with pytest.raises(ConfigError, match=r"models\.toy\.overrides: .*image_size 7 is odd"):
        planned(tmp_path, content)
    content = toy_sweep(tmp_path)
    with pytest.raises(ConfigError, match=r"task = 'textures': .* texts, which toy_model does not"):
        planned(tmp_path, content | {"tasks": {"textures": {"task": "easy_vqa"}}})
    content["studies"]["main"]["recipe"] = "villa"
    content["recipes"] = {"villa": {"adversary": "text"}}
    with pytest.raises(ConfigError, match=r"recipes\.villa\.adversary = text perturbs texts"):
        planned(tmp_path, content)
    with pytest.raises(ConfigError, match=r"models\.toy: has both of `architecture` and `module`"):
        planned(tmp_path, toy_sweep(tmp_path, architecture="vilt"))


def test_modules_add_parts_that_no_other_key_names(tmp_path: Path) -> None:
    content = sweep_with_modules(tmp_path)
    sweep = planned(tmp_path, content)
    assert {module.name for module in sweep.inputs.modules} == MODULES.keys()
    sources = {cell.curve.source for cell in sweep.plan.cells}
    assert {find_source(source).label for source in sources} == {"dense", "lottery"}
    runs = [trial for trial in sweep.plan if isinstance(trial.spec, TrainSpec)]
    assert {trial.spec.recipe.optimizer for trial in runs} == {"descent"}
    dense = {cell.trial for cell in sweep.plan.cells if not cell.level}
    assert sweep.skipped({}) == sweep.plan.trials.keys() - dense

    def keys_with_a_change_of(name: str) -> set[str]:
        file = tmp_path / f"{name}.py"
        file.write_text(file.read_text() + "# changed\n")
        return {*planned(tmp_path, content).plan.trials}

    assert keys_with_a_change_of("lottery") == {*sweep.plan.trials}
    same = keys_with_a_change_of("descent") & {*sweep.plan.trials}
    assert same == {trial.key for trial in sweep.plan if isinstance(trial.spec, PruneSpec)}


def test_the_files_of_a_sweep_can_be_imported_alone(tmp_path: Path) -> None:
    """As `tickets --sweep` does, whose tickets may be of a model from a file."""
    content = own_files.write_own_files(tmp_path)
    import_files(write_sweep(tmp_path, content))
    assert PRUNERS["first_weights"].needs == "nothing"
    (tmp_path / "my_task.py").write_text("TASK = 1")
    with pytest.raises(ConfigError, match=r"sweep\.yaml: tasks\.mine\.module: my_task\.py"):
        import_files(write_sweep(tmp_path, content))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tasks": {"mine": {"task": "vqa", "module": "my_task.py"}}}, r"tasks\.mine: .*both"),
        ({"tasks": {"mine": {}}}, r"tasks\.mine: .*neither"),
        ({"tasks": {"mine": {"module": "first_weights.py"}}}, r"tasks\.mine\.module: .*`TASK`"),
        ({"tasks": {"mine": {"module": "absent.py"}}}, r"tasks\.mine\.module: .*absent\.py"),
        ({"pruners": {"first": {"module": "my_task.py"}}}, r"pruners\.first\.module: .*`PRUNER`"),
        ({"pruners": {"frist": {"module": "first_weights.py"}}}, r"studies\.main\.pruner.*frist"),
        (
            {"pruners": {"first": {"module": "other/my_task.py"}}},
            r"module: .*my_task\.py.*same name",
        ),
        ({"pruners": {"first": {"module": "random.py"}}}, r"pruners\.first\.module: .*rename"),
        ({"modules": ["absent.py"]}, r"modules\[0\]: .*absent\.py: cannot be read"),
        ({"modules": ["my_task.py", "random.py"]}, r"modules\[1\]: random\.py: .*rename"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = own_files.write_own_files(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/my_task.py").write_text(own_files.PRUNER)
    (tmp_path / "random.py").write_text(own_files.PRUNER)
    with pytest.raises(ConfigError, match=expected) as caught:
        planned(tmp_path, content | change)
    assert "\n" not in str(caught.value)


BROKEN_SOURCE = """
from orchestrator.sources import TicketSource

SOURCE = TicketSource(module=__name__, label="mine", role="control")


def generate(builder, point):
    yield 1, ({0}, "")
"""


@pytest.mark.parametrize(
    ("yielded", "expected"),
    [
        ("len(3)", r"'mine': TypeError: .* at line 8 in generate"),
        ("'nokey'", r"'mine' yields 'nokey', which is no trial"),
    ],
)
def test_a_source_that_fails_costs_one_line(tmp_path: Path, yielded: str, expected: str) -> None:
    (tmp_path / "mine.py").write_text(BROKEN_SOURCE.replace("{0}", yielded))
    document = sweep_document(controls=["mine"]) | {"modules": [str(tmp_path / "mine.py")]}
    with pytest.raises(
        ConfigError, match=rf"^test: studies\.main\.controls = {expected}"
    ) as caught:
        plan_sweep(document, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_strategy_that_cannot_be_created_costs_one_line(tmp_path: Path) -> None:
    text = own_files.STRATEGY + "\nSTRATEGY = StrategyEntry(create=lambda sweep: sweep.nothing)\n"
    (tmp_path / "mine.py").write_text(text)
    document = sweep_document() | {"modules": [str(tmp_path / "mine.py")], "strategy": "mine"}
    with pytest.raises(ConfigError, match=r"^test: strategy = 'mine': AttributeError"):
        plan_sweep(document, tmp_path).skipped({})


def test_a_sweep_does_not_see_the_files_of_another(tmp_path: Path) -> None:
    """Its workers would not get them."""
    file = tmp_path / "half.py"
    file.write_text(own_files.PRUNER)
    document = sweep_document(pruner="half", controls=[])
    assert plan_sweep(document | {"pruners": {"half": {"module": str(file)}}}, tmp_path).plan
    with pytest.raises(ConfigError, match=r"studies\.main\.pruner = .half. is not known"):
        plan_sweep(document, tmp_path)
