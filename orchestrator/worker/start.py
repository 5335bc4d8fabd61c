"""Start the worker of a process.

Apart from `trial`, so that the driver can send the function to a worker without importing torch.
"""

from __future__ import annotations

import os

from orchestrator.worker.protocol import Context, Listen, Worker


def start_worker(context: Context, listen: Listen) -> Worker:
    """Make the worker of this process; imports torch and DeepSpeed."""
    from orchestrator.worker.trial import TrialWorker

    os.environ.update(context.credentials)
    return TrialWorker(context, listen)
