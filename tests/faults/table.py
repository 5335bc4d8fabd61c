"""The results of the fault suite as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tests.faults.scene import Outcome


def faults_table(faults: Counter[str]) -> str:
    """Tabulate the number of injected faults of each kind."""
    rows = [(fault, str(count)) for fault, count in sorted(faults.items())]
    return _table(("fault", "injected"), [*rows, ("**all**", f"**{faults.total()}**")])


def kinds_table(outcomes: Mapping[str, Sequence[Outcome]], baseline_s: float) -> str:
    """Tabulate the outcomes by kind and in total; `baseline_s` is the duration of an undisturbed
    sweep."""
    header = (
        *("what fails", "sweeps", "faults", "re-runs", "incomplete", "committed twice"),
        *("committed work redone", "work done by two", "results that differ"),
        *("leaked objects", "damaged", "time"),
    )
    rows = [_row(title, kind_outcomes, baseline_s) for title, kind_outcomes in outcomes.items()]
    all_outcomes = [outcome for kind_outcomes in outcomes.values() for outcome in kind_outcomes]
    return _table(header, [*rows, _row("**all**", all_outcomes, baseline_s)])


def _row(title: str, kind_outcomes: Sequence[Outcome], baseline_s: float) -> tuple[str, ...]:
    def total(name: str) -> str:
        return str(sum(getattr(outcome, name) for outcome in kind_outcomes))

    time = sum(outcome.seconds for outcome in kind_outcomes) / len(kind_outcomes) / baseline_s
    return (
        title,
        str(len(kind_outcomes)),
        str(sum(outcome.faults.total() for outcome in kind_outcomes)),
        total("reruns"),
        str(sum(bool(outcome.incomplete) for outcome in kind_outcomes)),
        *(total(name) for name in ("committed_twice", "redone", "duplicated", "different")),
        *(total(name) for name in ("leaked", "damaged")),
        f"{time:.1f}x",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
