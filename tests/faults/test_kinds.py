"""The fault suite in small: `make faults` runs more sweeps, and each kind of fault by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults import kinds
from tests.faults.kinds import Kind
from tests.faults.scene import settle
from tests.support.lab import Lab, opened

pytestmark = pytest.mark.slow

KINDS = (
    *(kinds.everything, kinds.s3_refuses, kinds.stopped, kinds.node, kinds.clock, kinds.hang),
    *(kinds.two_drivers, kinds.without_claims),
)
"""`everything` brings S3 faults, a full disk, and the deaths of S3, a worker and the driver."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with opened(tmp_path_factory.mktemp("faults")) as lab:
        settle(lab)
        yield lab


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_is_lost_run_again_or_changed(lab: Lab, kind: Kind) -> None:
    outcome = kind(lab, kind.__name__.replace("_", "-"), random.Random(kind.__name__))
    assert outcome.good, outcome
    if kind not in (kinds.two_drivers, kinds.without_claims):
        assert outcome.faults.total() > 0, "the fault found nothing to strike"
