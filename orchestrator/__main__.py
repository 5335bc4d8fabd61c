"""Entry point of `sweepstakes`. It handles Ctrl-C before it imports anything else."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line, whose import takes half a second and may be interrupted by Ctrl-C."""
    try:
        from orchestrator.cli import main as cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli.main()


if __name__ == "__main__":
    main()
