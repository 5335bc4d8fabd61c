"""`make faults`: run a small sweep under about 200 injected faults and tabulate the outcomes.

python -m tests.faults                                  the full schedule
python -m tests.faults 0.1                              a share of it, each kind at least once
python -m tests.faults 0.1 s3_requests driver_killed    only some kinds
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
from tests.faults.scene import Outcome, record_baseline
from tests.faults.table import faults_table, kinds_table
from tests.support.lab import S3Testbed, running_testbed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    names = {kind.__name__: kind for kind in KINDS}
    parser.add_argument("share", nargs="?", type=float, default=1.0)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = [names[name] for name in arguments.kinds or names]
    begin = time.monotonic()
    outcomes: dict[Kind, list[Outcome]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        running_testbed(Path(folder)) as testbed,
    ):
        record_baseline(testbed)
        try:
            for kind in chosen:
                for number in range(max(1, round(arguments.share * KINDS[kind][1]))):
                    outcome = _run_kind(testbed, kind, number, arguments.seed)
                    outcomes.setdefault(kind, []).append(outcome)
        finally:
            if outcomes:
                _print_tables(outcomes, testbed.baseline_s, time.monotonic() - begin)
    sys.exit(
        0
        if all(outcome.good for kind_outcomes in outcomes.values() for outcome in kind_outcomes)
        else 1
    )


def _print_tables(
    outcomes: Mapping[Kind, list[Outcome]], undisturbed_s: float, seconds: float
) -> None:
    """Print the tables, also if the schedule was interrupted."""
    all_outcomes = [outcome for kind_outcomes in outcomes.values() for outcome in kind_outcomes]
    print(faults_table(sum((outcome.faults for outcome in all_outcomes), Counter())))
    print()
    print(
        kinds_table(
            {KINDS[kind][0]: kind_outcomes for kind, kind_outcomes in outcomes.items()},
            undisturbed_s,
        )
    )
    print(f"\n{seconds:.0f} s in all; undisturbed, a sweep takes {undisturbed_s:.0f} s")


def _run_kind(testbed: S3Testbed, kind: Kind, number: int, seed: int) -> Outcome:
    name = f"{kind.__name__.replace('_', '-')}-{number}"
    print(f"{name} …", file=sys.stderr, end=" ", flush=True)
    begin = time.monotonic()
    outcome = kind(testbed, name, random.Random(f"{seed} {name}"))
    faults = ", ".join(f"{count} {fault}" for fault, count in sorted(outcome.faults.items()))
    verdict = "good" if outcome.good else f"NOT GOOD: {outcome}"
    print(f"{time.monotonic() - begin:.0f} s: {faults}: {verdict}", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    main()
