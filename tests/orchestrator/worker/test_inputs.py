"""The identity of a model in tickets."""

from __future__ import annotations

from orchestrator.worker.inputs import model_digest
from trainables.spec import ModelSpec


def test_the_hash_of_a_model_in_stored_tickets_does_not_change() -> None:
    spec = ModelSpec(architecture="uniter", size="tiny")
    assert model_digest(spec).startswith("df6482b9465c52f63485")
    other = ModelSpec(architecture="uniter", size="tiny", source="5" * 64)
    assert model_digest(other) != model_digest(spec)
