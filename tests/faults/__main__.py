"""`make faults`: run a small sweep under about 200 injected faults and tabulate the outcomes.

python -m tests.faults                                  the full schedule
python -m tests.faults 0.1                              a share of it, each kind at least once
python -m tests.faults 0.1 s3_requests driver_killed    only some kinds

The row of each kind is printed when its sweeps have ended. If a sweep cannot be run or judged, the
others go on. The exit code is 1 if that happened or an outcome is not good.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.faults.kinds import KINDS, Kind
from tests.faults.scene import Outcome, record_baseline
from tests.faults.table import faults_table, kind_row, kinds_header
from tests.support.lab import S3Testbed, running_testbed


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = {kind.__name__: kind for kind in KINDS}
    parser.add_argument("share", nargs="?", type=float, default=1.0)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.kinds if name not in names]:
        parser.error(f"no kind {unknown[0]!r}; use {', '.join(names)}")
    chosen = [names[name] for name in arguments.kinds or names]
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    failed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        running_testbed(Path(folder)) as testbed,
    ):
        record_baseline(testbed)
        print(kinds_header(), flush=True)
        try:
            for kind in chosen:
                title, sweeps = KINDS[kind]
                of_kind: list[Outcome] = []
                for number in range(max(1, round(arguments.share * sweeps))):
                    name = f"{kind.__name__.replace('_', '-')}-{number}"
                    try:
                        outcome = _run_kind(testbed, kind, name, arguments.seed)
                    except Exception:  # the other sweeps take most of an hour
                        traceback.print_exc()
                        failed.append(name)
                        continue
                    of_kind.append(outcome)
                    outcomes.append(outcome)
                    if not outcome.good:
                        failed.append(name)
                if of_kind:
                    print(kind_row(title, of_kind, testbed.baseline_s), flush=True)
        finally:  # also if the schedule is interrupted
            if outcomes:
                print(kind_row("**all**", outcomes, testbed.baseline_s))
                print()
                print(faults_table(sum((outcome.faults for outcome in outcomes), Counter())))
            seconds = time.monotonic() - begin
            print(
                f"\n{seconds:.0f} s in all; undisturbed, a sweep takes {testbed.baseline_s:.0f} s",
                flush=True,
            )
    if failed:
        sys.exit(f"failed or not good: {', '.join(failed)}")


def _run_kind(testbed: S3Testbed, kind: Kind, name: str, seed: int) -> Outcome:
    print(f"{name} …", file=sys.stderr, end=" ", flush=True)
    begin = time.monotonic()
    outcome = kind(testbed, name, random.Random(f"{seed} {name}"))
    faults = ", ".join(f"{count} {fault}" for fault, count in sorted(outcome.faults.items()))
    verdict = "good" if outcome.good else f"NOT GOOD: {outcome}"
    print(f"{time.monotonic() - begin:.0f} s: {faults}: {verdict}", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    main()
