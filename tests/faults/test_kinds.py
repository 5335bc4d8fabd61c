"""The fault suite at its smallest: one sweep under each kind of fault (`make faults` runs more)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults.kinds import KINDS, Kind, four_drivers, two_drivers, without_claims
from tests.faults.lab import Lab, opened
from tests.faults.scene import settle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with opened(tmp_path_factory.mktemp("faults")) as lab:
        settle(lab)
        yield lab


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_is_lost_run_again_or_changed(lab: Lab, kind: Kind) -> None:
    outcome = kind(lab, kind.__name__.replace("_", "-"), random.Random(kind.__name__))
    assert outcome.good, outcome
    if kind not in (two_drivers, four_drivers, without_claims):
        assert outcome.faults.total() > 0, "the fault found nothing to strike"
