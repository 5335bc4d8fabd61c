"""Entry point of `sweepstakes`, which loads nothing before it takes care of Ctrl-C."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line. It takes half a second to load, and Ctrl-C may come meanwhile."""
    try:
        from orchestrator.cli import main as cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli.main()


if __name__ == "__main__":
    main()
