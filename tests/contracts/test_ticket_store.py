from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.errors import Conflict, Damaged, NotInStore
from orchestrator.store import paths
from orchestrator.store.maintenance import collect_garbage, repair_store, verify_store
from orchestrator.store.tickets import TrialStore
from tests.support.records import make_record, make_ticket

KINDS: list[dict[str, Any]] = [{}, {"kind": "blocks"}, {"kind": "blocks", "scored": True}]
"""Tickets over weights, and of a kind that this installation does not know."""


def test_a_trial_exists_once_it_is_committed(store: TrialStore) -> None:
    record = make_record(parents=("1" * 64,), history=({"step": 1.0, "loss": 0.5},))
    assert store.keys() == set()
    assert store.commit(record)
    assert store.keys() == {record.key}
    assert store.record(record.key) == record


def test_committing_the_same_result_again_changes_nothing(store: TrialStore) -> None:
    record = make_record(costs={"seconds": 1.0})
    store.commit(record)
    assert not store.commit(replace(record, costs={"seconds": 9.0}, created_at="later"))
    assert store.record(record.key) == record


def test_a_different_result_for_the_same_trial_is_a_conflict(store: TrialStore) -> None:
    record = make_record()
    store.commit(record)
    with pytest.raises(Conflict, match=rf"{record.key}.*different scores"):
        store.commit(replace(record, scores={"score": 87.26}))
    assert store.record(record.key) == record


def test_a_record_that_json_cannot_represent_is_not_written(store: TrialStore) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.commit(replace(make_record(), scores={"score": float("nan")}))
    assert store.keys() == set()


def test_all_records_or_the_requested_ones_are_returned(store: TrialStore) -> None:
    first, second = make_record(seed=1), make_record(seed=2)
    store.commit(first)
    store.commit(second)
    assert store.records([first.key, "f" * 64]) == {first.key: first}
    assert store.records() == {record.key: record for record in (first, second)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_ticket_is_read_bit_for_bit_as_it_was_written(
    store: TrialStore, kind: dict[str, Any]
) -> None:
    ticket = make_ticket(**kind)
    ref = store.put_ticket(ticket)
    assert store.ticket(ref.sha256) == ticket
    assert (ref.kept, ref.total) == (ticket.kept, 44)
    stat = store.objects.stat(paths.ticket(ref.sha256))
    assert stat is not None
    assert ref.bytes == stat.size


def test_equal_tickets_are_one_object_and_those_of_two_kinds_are_not(store: TrialStore) -> None:
    assert store.put_ticket(make_ticket()) == store.put_ticket(make_ticket())
    assert len(list(store.objects.list(paths.TICKETS))) == 1
    refs = {store.put_ticket(make_ticket(**kind)).sha256 for kind in KINDS}
    assert len(refs) == len(list(store.objects.list(paths.TICKETS))) == len(KINDS)


def test_two_versions_of_a_rewind_point_can_coexist(store: TrialStore) -> None:
    first = store.put_weights("a" * 64, 100, b"weights")
    second = store.put_weights("a" * 64, 100, b"from another machine")
    assert store.weights(first) == b"weights"
    assert store.weights(second) == b"from another machine"


def test_a_checkpoint_is_replaced_and_deleted(store: TrialStore) -> None:
    assert store.checkpoint("k") is None
    store.put_checkpoint("k", b"step 100")
    store.put_checkpoint("k", b"step 200")
    assert store.checkpoint("k") == b"step 200"
    store.delete_checkpoint("k")
    assert store.checkpoint("k") is None


def test_the_last_failure_of_each_trial_is_kept(store: TrialStore) -> None:
    store.put_failure("k1", {"error": "first", "attempts": 1})
    store.put_failure("k1", {"error": "second", "attempts": 2})
    store.put_failure("k2", {"error": "other", "attempts": 1})
    assert store.failures() == {
        "k1": {"error": "second", "attempts": 2},
        "k2": {"error": "other", "attempts": 1},
    }


def test_failures_are_returned_by_trial_and_damaged_ones_are_marked(store: TrialStore) -> None:
    store.put_failure("k1", {"error": "first"})
    store.put_failure("k2", {"error": "other"})
    assert store.failures(["k1", "k3"]) == {"k1": {"error": "first"}}
    for garbage in (b"{", b"[1]", b"{}", b"\xff"):
        store.objects.put(paths.failure("k1"), garbage)
        assert "unreadable" in store.failures(["k1"])["k1"]["error"]


def test_logs_and_records_are_found_by_key_prefix(store: TrialStore) -> None:
    first, second = make_record(seed=1), make_record(seed=2)
    assert store.log(first.key) == ""
    store.put_log(first.key, "first ä\n")
    store.put_log(first.key, "first ä\nsecond\n")
    store.put_log("f" * 64, "other")
    assert store.log(first.key) == "first ä\nsecond\n"
    assert store.log_keys(first.key[:6]) == [first.key]
    assert len(store.log_keys("")) == 2
    store.commit(first)
    store.commit(second)
    assert store.keys(first.key[:12]) == {first.key}
    assert store.keys("f" * 64) == set()


@pytest.mark.parametrize(
    "part", ["bits", "hash", "name", "pool", "kind", "scores", "hash of scores", "end of file"]
)
def test_flipped_bits_in_a_ticket_are_reported_in_one_line(store: TrialStore, part: str) -> None:
    ticket = make_ticket(kind="blocks", scored=True)
    tensor = ticket.tensors[1]
    ref = store.put_ticket(ticket)
    path = paths.ticket(ref.sha256)
    data = bytearray(store.objects.get(path))
    bits = data.index(tensor.bits)
    position = {
        "bits": bits,
        "hash": data.index(tensor.sha256),
        "name": data.rindex(b"output", 0, bits),  # earlier occurrences are in the statistics
        "pool": data.index(b"encoder"),
        "kind": data.index(b"blocks"),
        "scores": data.index(tensor.scores),
        "hash of scores": data.index(tensor.scores_sha256),
        "end of file": len(data) - 1,
    }
    data[position[part]] ^= 0x10
    store.objects.put(path, bytes(data))
    with pytest.raises(Damaged) as caught:
        store.ticket(ref.sha256)
    message = str(caught.value)
    assert store.objects.url(path) in message
    assert "tickets verify --repair" in message
    assert "\n" not in message


def test_a_valid_ticket_at_the_wrong_path_is_damage(store: TrialStore) -> None:
    ref, other = store.put_ticket(make_ticket()), store.put_ticket(make_ticket(seed=1))
    store.objects.put(paths.ticket(ref.sha256), store.objects.get(paths.ticket(other.sha256)))
    with pytest.raises(Damaged, match="another ticket"):
        store.ticket(ref.sha256)


def test_flipped_bits_in_weights_and_records_are_reported(store: TrialStore) -> None:
    ref = store.put_weights("a" * 64, 1, b"weights")
    store.objects.put(ref.path, b"veights")
    with pytest.raises(Damaged, match="damaged weights"):
        store.weights(ref)
    record = make_record()
    store.objects.put(paths.record(record.key), b'{"format": "sweepstakes-record/1"')
    with pytest.raises(Damaged, match="damaged record"):
        store.record(record.key)


def test_a_missing_object_is_named(store: TrialStore) -> None:
    with pytest.raises(NotInStore, match="a" * 64):
        store.ticket("a" * 64)
    with pytest.raises(NotInStore, match="b" * 64):
        store.record("b" * 64)


def test_verify_finds_nothing_in_an_intact_store(store: TrialStore) -> None:
    prune = make_record("prune", ticket=store.put_ticket(make_ticket()))
    rewind = make_record("rewind", weights=store.put_weights("a" * 64, 5, b"weights"))
    store.commit(prune)
    store.commit(rewind)
    report = verify_store(store)
    assert report.ok
    assert report.checked == 4
    assert report.orphaned == ()


def test_verify_finds_damage_and_repair_removes_it(store: TrialStore) -> None:
    """A damaged ticket, a lost rewind point and a truncated record are found.

    The repair deletes the records of the trials that produced them, so that the next run produces
    them again. A record that only uses the ticket remains.
    """
    ref = store.put_ticket(make_ticket())
    prune = make_record("prune", ticket=ref)
    train = make_record("train", seed=1, ticket=ref)
    rewind = make_record("rewind", weights=store.put_weights("a" * 64, 5, b"weights"))
    truncated = make_record("train", seed=2)
    for record in (prune, train, rewind, truncated):
        store.commit(record)
    assert rewind.weights is not None
    store.objects.put(paths.ticket(ref.sha256), b"garbage")
    store.objects.delete(rewind.weights.path)
    store.objects.put(paths.record(truncated.key), b"{")

    report = verify_store(store)
    assert set(report.damaged) == {paths.ticket(ref.sha256), paths.record(truncated.key)}
    assert report.missing == {rewind.weights.path: (rewind.key,)}
    repair_store(store, report)
    assert store.keys() == {train.key}

    store.put_ticket(make_ticket())
    store.commit(prune)
    assert verify_store(store).ok


def test_only_old_unreferenced_objects_are_collected(store: TrialStore) -> None:
    used, unused = store.put_ticket(make_ticket()), store.put_ticket(make_ticket(seed=1))
    record = make_record("prune", ticket=used)
    store.commit(record)
    store.put_checkpoint(record.key, b"state of a committed trial")
    store.put_checkpoint("f" * 64, b"state of an uncommitted trial")
    lease = paths.lease("f" * 64, 0)
    store.objects.put(lease, b"lease")
    for key in (record.key, "f" * 64):
        store.objects.put(paths.log(key), b"log")
    orphans = {paths.ticket(unused.sha256), paths.checkpoint(record.key), lease}
    abandoned = {paths.checkpoint("f" * 64), paths.log("f" * 64)}
    report = verify_store(store)
    assert {item.path for item in report.orphaned} == orphans
    assert {item.path for item in report.abandoned} == abandoned

    assert collect_garbage(store, dry_run=False) == ()
    assert collected(store, dry_run=True) == orphans
    assert collected(store, dry_run=False) == orphans
    assert collected(store, dry_run=False) == set()
    assert store.ticket(used.sha256) == make_ticket()
    assert store.checkpoint("f" * 64) is not None
    assert collected(store, abandoned=True, dry_run=False) == abandoned
    assert {item.path for item in store.objects.list("")} == {
        paths.record(record.key),
        paths.ticket(used.sha256),
        paths.log(record.key),
    }


def collected(store: TrialStore, **options: bool) -> set[str]:
    """Return the paths that a collection without grace period deletes."""
    return {item.path for item in collect_garbage(store, grace=timedelta(hours=-1), **options)}


def test_nothing_is_collected_while_a_record_is_unreadable(store: TrialStore) -> None:
    ref = store.put_ticket(make_ticket())
    store.objects.put(paths.record("a" * 64), b"{")
    with pytest.raises(Damaged):
        collected(store, dry_run=False)
    assert store.ticket(ref.sha256) == make_ticket()
