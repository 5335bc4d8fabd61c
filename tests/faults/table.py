"""The figures of the fault suite, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tests.faults.scene import Outcome


def faults_table(faults: Counter[str]) -> str:
    """How many faults of each kind were injected."""
    rows = [(fault, str(count)) for fault, count in sorted(faults.items())]
    return _table(("fault", "injected"), [*rows, ("**all**", f"**{faults.total()}**")])


def kinds_table(outcomes: Mapping[str, Sequence[Outcome]], seconds: float) -> str:
    """What they did, by kind and in all; `seconds` is what a sweep takes undisturbed."""
    header = (
        *("what fails", "sweeps", "faults", "run again", "incomplete", "committed twice"),
        *("committed work done again", "same work by two", "results that differ"),
        *("objects without a name", "damaged", "time"),
    )
    rows = [_row(title, some, seconds) for title, some in outcomes.items()]
    every = [outcome for some in outcomes.values() for outcome in some]
    return _table(header, [*rows, _row("**all**", every, seconds)])


def _row(title: str, some: Sequence[Outcome], seconds: float) -> tuple[str, ...]:
    def total(name: str) -> str:
        return str(sum(getattr(outcome, name) for outcome in some))

    time = sum(outcome.seconds for outcome in some) / len(some) / seconds
    return (
        title,
        str(len(some)),
        str(sum(outcome.faults.total() for outcome in some)),
        total("reruns"),
        str(sum(bool(outcome.incomplete) for outcome in some)),
        *(total(name) for name in ("twice", "again", "duplicated", "different")),
        *(total(name) for name in ("nameless", "unsound")),
        f"{time:.1f}x",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
