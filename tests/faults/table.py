"""The results of the fault suite as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.scene import Outcome


def faults_table(faults: Counter[str]) -> str:
    """Tabulate the number of injected faults of each kind."""
    rows = [(fault, str(count)) for fault, count in sorted(faults.items())]
    return _table(("fault", "injected"), [*rows, ("**all**", f"**{faults.total()}**")])


def kinds_header() -> str:
    """Return the header of the table whose rows are `kind_row`."""
    header = (
        *("what fails", "sweeps", "faults", "re-runs", "incomplete", "committed twice"),
        *("committed work redone", "work done by two", "results that differ"),
        *("leaked objects", "damaged", "time"),
    )
    return _table(header, [])


def kind_row(title: str, kind_outcomes: Sequence[Outcome], baseline_s: float) -> str:
    """Tabulate the outcomes of a kind, at least one; `baseline_s` is the duration of an
    undisturbed sweep."""

    def total(name: str) -> str:
        return str(sum(getattr(outcome, name) for outcome in kind_outcomes))

    time = sum(outcome.seconds for outcome in kind_outcomes) / len(kind_outcomes) / baseline_s
    cells = (
        title,
        str(len(kind_outcomes)),
        str(sum(outcome.faults.total() for outcome in kind_outcomes)),
        total("reruns"),
        str(sum(bool(outcome.incomplete) for outcome in kind_outcomes)),
        *(total(name) for name in ("committed_twice", "redone", "duplicated", "different")),
        *(total(name) for name in ("leaked", "damaged")),
        f"{time:.1f}x",
    )
    return _line(cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_line(cells) for cells in (header, ["---"] * len(header), *rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
