"""MLflow as a projection of the store: derived from a plan and its records, rebuilt at any time.

Each sweep is one experiment. A parent run per curve and seed logs `score_by_sparsity` at step =
sparsity in percent; dense runs and the score without the image are horizontal lines. Each training
run is a child of the first curve that contains it. One summary run holds the report. The param
`kind` says which is which. Saved views of the UI show the curves alone. Nothing is ever read from
MLflow to decide what runs.
"""

from orchestrator.tracking.live import LiveRun
from orchestrator.tracking.projection import sync
from orchestrator.tracking.projector import Projector

__all__ = ["LiveRun", "Projector", "sync"]
