"""Start the worker of a process.

Separate from `trial`, so that the driver can send the function to a worker without importing torch.
"""

from __future__ import annotations

import os

from orchestrator.worker.protocol import Context, Poll, Worker


def start_worker(context: Context, poll: Poll) -> Worker:
    """Create the worker of this process; imports torch and DeepSpeed."""
    from orchestrator.worker.trial import TrialWorker

    os.environ.update(context.credentials)
    return TrialWorker(context, poll)
