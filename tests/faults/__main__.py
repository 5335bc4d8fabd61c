"""`make faults`: a sweep under some 200 injected faults, and what they cost.

python -m tests.faults                 the whole schedule
python -m tests.faults 0.1             a share of it, every kind at least once
python -m tests.faults 0.1 s3 driver   some kinds only
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.faults.kinds import KINDS, Kind
from tests.faults.scene import Outcome, settle
from tests.faults.table import faults_table, kinds_table
from tests.support.lab import Lab, opened


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    names = {kind.__name__: kind for kind in KINDS}
    parser.add_argument("share", nargs="?", type=float, default=1.0)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen = [names[name] for name in given.kinds or names]
    begin = time.monotonic()
    outcomes: dict[Kind, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, opened(Path(folder)) as lab:
        settle(lab)
        try:
            for kind in chosen:
                for number in range(max(1, round(given.share * KINDS[kind][1]))):
                    outcome = _brought(lab, kind, number, given.seed)
                    outcomes.setdefault(kind, []).append(outcome)
        finally:
            if outcomes:
                _tell(outcomes, lab.seconds, time.monotonic() - begin)
    sys.exit(0 if all(outcome.good for some in outcomes.values() for outcome in some) else 1)


def _tell(outcomes: Mapping[Kind, list[Outcome]], undisturbed_s: float, seconds: float) -> None:
    """The tables, also of a schedule that was not brought to its end."""
    every = [outcome for some in outcomes.values() for outcome in some]
    print(faults_table(sum((outcome.faults for outcome in every), Counter())))
    print()
    print(kinds_table({KINDS[kind][0]: some for kind, some in outcomes.items()}, undisturbed_s))
    print(f"\n{seconds:.0f} s in all; undisturbed, a sweep takes {undisturbed_s:.0f} s")


def _brought(lab: Lab, kind: Kind, number: int, seed: int) -> Outcome:
    name = f"{kind.__name__.replace('_', '-')}-{number}"
    print(f"{name} …", file=sys.stderr, end=" ", flush=True)
    begin = time.monotonic()
    outcome = kind(lab, name, random.Random(f"{seed} {name}"))
    hit = ", ".join(f"{count} {fault}" for fault, count in sorted(outcome.faults.items()))
    verdict = "good" if outcome.good else f"NOT GOOD: {outcome}"
    print(f"{time.monotonic() - begin:.0f} s: {hit}: {verdict}", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    main()
