"""The option `objectives` of pre-training. This module imports nothing heavy, because planning
checks the option too."""

from __future__ import annotations

from trainables.errors import TrainableError

OBJECTIVE_NAMES = ("itm", "mlm", "mrfr", "mrc_kl")
"""The names of UNITER's objectives; `trainables.tasks.objectives` computes them."""


def parse_mixture(objectives: str) -> dict[str, int]:
    """Parse `itm:6,mlm:8` into a mapping.

    Raises TrainableError if it is malformed or lacks `mlm`, which gives the score.
    """
    try:
        pairs = [part.split(":") for part in objectives.replace(" ", "").split(",")]
        mixture = {name: int(share) for name, share in pairs}
    except ValueError:
        mixture = {}
    known = len(mixture) == objectives.count(",") + 1 and mixture.keys() <= {*OBJECTIVE_NAMES}
    if not known or min(mixture.values()) < 1 or "mlm" not in mixture:
        raise TrainableError(
            f"task pretraining: objectives = {objectives!r}; give some of "
            f"{', '.join(OBJECTIVE_NAMES)}, with mlm, once each, as in 'itm:6,mlm:8'"
        )
    return mixture
