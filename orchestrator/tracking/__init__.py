"""MLflow as a projection of the store: written from a plan and its records, rebuilt at any time.

One experiment per sweep. A parent run per curve and seed logs `score` at step = sparsity in
percent, so that the UI's own comparison draws score-sparsity curves; each training run is a child
of the first curve that asks for it; one summary run holds the report. Nothing is ever read from
MLflow to decide what runs.
"""

from orchestrator.tracking.live import LiveRun
from orchestrator.tracking.projection import sync
from orchestrator.tracking.projector import Projector

__all__ = ["LiveRun", "Projector", "sync"]
