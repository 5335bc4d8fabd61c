"""`make bench`: every performance claim as a ratio, measured side by side in this one run.

python -m tests.benchmarks            all of them
python -m tests.benchmarks pruning    one of them
"""

from __future__ import annotations

import importlib
import sys

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
)


def main() -> None:
    chosen = sys.argv[1:] or BENCHMARKS
    rows: list[Row] = []
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"tests.benchmarks.{name}").run()
    print(markdown(rows))


if __name__ == "__main__":
    main()
