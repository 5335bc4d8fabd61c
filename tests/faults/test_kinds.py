"""A short form of the fault suite: `make faults` runs more sweeps, and each kind separately."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults import kinds
from tests.faults.kinds import Kind
from tests.faults.scene import record_baseline
from tests.support.lab import S3Testbed, running_testbed

pytestmark = pytest.mark.slow

SHORT_SUITE = (
    kinds.all_faults,
    kinds.s3_outage,
    kinds.sigterm,
    kinds.node_lost,
    kinds.clock_set_back,
    kinds.trial_hangs,
    kinds.two_drivers,
    kinds.without_leases,
)
"""`all_faults` has S3 faults and a full disk, and kills S3, a worker and the driver."""


@pytest.fixture(scope="module")
def s3_testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Testbed]:
    with running_testbed(tmp_path_factory.mktemp("faults")) as s3_testbed:
        record_baseline(s3_testbed)
        yield s3_testbed


@pytest.mark.parametrize("kind", SHORT_SUITE, ids=lambda kind: kind.__name__)
def test_no_result_is_lost_redone_or_changed(s3_testbed: S3Testbed, kind: Kind) -> None:
    outcome = kind(s3_testbed, kind.__name__.replace("_", "-"), random.Random(kind.__name__))
    assert outcome.good, outcome
    if kind not in (kinds.two_drivers, kinds.without_leases):
        assert outcome.faults.total() > 0, "no fault was injected"
