"""`make bench`: every performance claim as a ratio, measured side by side in this one run.

python -m tests.benchmarks            all of them
python -m tests.benchmarks pruning    one of them
"""

from __future__ import annotations

import importlib
import sys
import traceback

from tests.benchmarks.table import Row, markdown

BENCHMARKS = (
    "pruning",
    "tickets",
    "steps",
    "trainer",
    "reading",
    "sharing",
    "scheduling",
    "scale",
    "volume",
    "batches",
)


def main() -> None:
    chosen = sys.argv[1:] or BENCHMARKS
    rows: list[Row] = []
    failed: list[str] = []
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        sys.exit(f"no benchmark {unknown[0]!r}; use {', '.join(BENCHMARKS)}")
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows += importlib.import_module(f"tests.benchmarks.{name}").run()
        except Exception:  # the rows of the others took minutes
            failed.append(name)
            traceback.print_exc()
    print(markdown(rows))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
