"""What lies in a store, anybody may have put there: it is refused, and nothing in it runs."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Damaged
from orchestrator.store import paths
from orchestrator.store import record as records
from orchestrator.store.record import Record, WeightsRef
from orchestrator.store.tickets import TicketStore
from tests.support import hostile_server as hostile
from trainables.errors import CheckpointError
from trainables.training import checkpoint

KEY = "ab" * 32
FORMS: dict[str, Callable[[Path], bytes]] = {
    "pickle": hostile.pickled,
    "torch": hostile.torch_file,
    "numpy": hostile.npy,
    "arrow": hostile.with_code_in_its_schema,
}


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """Is made by code that runs."""
    return tmp_path / "it ran"


@pytest.mark.parametrize("form", FORMS)
def test_what_carries_code_is_refused_and_does_not_run(
    store: TicketStore, form: str, flag: Path
) -> None:
    data = FORMS[form](flag)
    name = hostile.ticket().sha256
    for path in (paths.record(KEY), paths.ticket(name), paths.checkpoint(KEY)):
        store.objects.put(path, data)
    weights = store.put_weights(KEY, 1, data)
    with pytest.raises(Damaged, match="damaged record"):
        store.record(KEY)
    if form != "arrow":  # there the ticket itself is sound, and what it claims beside is not heeded
        with pytest.raises(Damaged, match="damaged ticket"):
            store.ticket(name)
    for payload in (store.checkpoint(KEY), store.weights(weights)):
        assert payload is not None
        with pytest.raises(CheckpointError, match="not ours"):
            checkpoint.decode(payload)
    assert not flag.exists()


def test_the_probes_would_run_where_something_unpickles(flag: Path) -> None:
    pickle.loads(hostile.pickled(flag))
    assert flag.exists()


def framed(header: object, body: bytes = b"") -> bytes:
    """As safetensors frames a header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


def said(text: str) -> dict[str, Any]:
    return {"__metadata__": {"sweepstakes": text}}


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack("<Q", 1 << 60) + b"{}",
        framed({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        framed({"w": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        framed(b'{"w":' + b"[" * 100_000),
        framed(said("[" * 100_000)),
        framed(said("9" * 10_000)),
        framed(said("[1]")),
    ],
    ids=["header", "tensor", "overflow", "deep header", "deep text", "number", "list"],
)
def test_a_checkpoint_that_claims_too_much_is_refused(payload: bytes) -> None:
    with pytest.raises(CheckpointError, match="not ours"):
        checkpoint.decode(payload)


def sealed(body: bytes) -> bytes:
    """A record whose hash is right."""
    whole = records.encode(Record(key=KEY, kind="train", spec={}))
    head = whole[: whole.index(b'"record":') + len(b'"record":')]
    return head + body + f',"sha256":"{sha256(body).hexdigest()}"}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"key":"%s","kind":"train","spec":{"a":%s}}'
        % (KEY.encode(), b"[" * 9_999 + b"]" * 9_999),
        b'{"key":"%s","kind":"train","spec":{},"more":1' % KEY.encode(),
        b'{"key":["a"],"kind":7,"spec":null}',
    ],
    ids=["deep", "deep inside", "cut off", "of other types"],
)
def test_a_record_that_is_not_ours_is_refused(store: TicketStore, body: bytes) -> None:
    store.objects.put(paths.record(KEY), sealed(body))
    with pytest.raises(Damaged, match=f"{KEY}.json: damaged record"):
        store.record(KEY)


def test_the_record_of_another_trial_is_refused(store: TicketStore) -> None:
    other = Record(key="cd" * 32, kind="train", spec={})
    store.commit(other)
    store.commit(replace(other, key=KEY))
    store.objects.put(paths.record(KEY), store.objects.get(paths.record(other.key)))
    with pytest.raises(Damaged, match=f"another trial, {other.key}"):
        TicketStore(store.objects).record(KEY)


def test_weights_that_lie_elsewhere_are_not_trusted(store: TicketStore) -> None:
    """A record names the path of its weights: whatever is there must have the hash beside it."""
    store.objects.put("elsewhere", b"somebody else's")
    with pytest.raises(Damaged):
        store.weights(WeightsRef(path="elsewhere", sha256="0" * 64, bytes=15))


BOMB = """
import resource, sys
from pathlib import Path
from orchestrator.errors import Damaged
from orchestrator.store import parquet
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parquet.decode(data, sys.argv[2], where="bomb")
except Damaged:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_ticket_that_unpacks_to_gigabytes_is_given_up_early(tmp_path: Path) -> None:
    """Eight tensors of 32 MB in some kB: no more than the first one is unpacked."""
    file = tmp_path / "bomb.parquet"
    file.write_bytes(hostile.bomb(1 << 25))
    assert file.stat().st_size < 100_000
    command = [sys.executable, "-c", BOMB, str(file), hostile.ticket().sha256]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 128 * 1024, "kB that it took"
