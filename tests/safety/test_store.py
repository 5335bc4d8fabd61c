"""Objects in a store are untrusted: hostile ones are refused, and no code in them runs."""

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
from orchestrator.store.record import Record, WeightsRef, encode_record
from orchestrator.store.tickets import TrialStore
from tests.support import hostile_files
from trainables.errors import CheckpointError
from trainables.training import checkpoint

KEY = "ab" * 32
FORMS: dict[str, Callable[[Path], bytes]] = {
    "pickle": hostile_files.pickle_file,
    "torch": hostile_files.torch_file,
    "numpy": hostile_files.npy_file,
    "arrow": hostile_files.ticket_with_code_in_schema,
}


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """A file that malicious code creates if it runs."""
    return tmp_path / "code_ran"


@pytest.mark.parametrize("form", FORMS)
def test_objects_with_code_are_refused_without_running_it(
    store: TrialStore, form: str, flag: Path
) -> None:
    data = FORMS[form](flag)
    name = hostile_files.sample_ticket().sha256
    for path in (paths.record(KEY), paths.ticket(name), paths.checkpoint(KEY)):
        store.objects.put(path, data)
    weights = store.put_weights(KEY, 1, data)
    with pytest.raises(Damaged, match="damaged record"):
        store.record(KEY)
    if form != "arrow":  # this ticket is valid, and its declared extension type is ignored
        with pytest.raises(Damaged, match="damaged ticket"):
            store.ticket(name)
    for payload in (store.checkpoint(KEY), store.weights(weights)):
        assert payload is not None
        with pytest.raises(CheckpointError, match="damaged or"):
            checkpoint.decode_checkpoint(payload)
    assert not flag.exists()


def test_the_malicious_code_does_run_when_it_is_unpickled(flag: Path) -> None:
    pickle.loads(hostile_files.pickle_file(flag))
    assert flag.exists()


def safetensors_file(header: object, body: bytes = b"") -> bytes:
    """Return a safetensors file with that header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


def metadata(text: str) -> dict[str, Any]:
    return {"__metadata__": {"sweepstakes": text}}


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack("<Q", 1 << 60) + b"{}",
        safetensors_file({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        safetensors_file({"w": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        safetensors_file(b'{"w":' + b"[" * 100_000),
        safetensors_file(metadata("[" * 100_000)),
        safetensors_file(metadata("9" * 10_000)),
        safetensors_file(metadata("[1]")),
    ],
    ids=["header", "tensor", "overflow", "deep header", "deep text", "number", "list"],
)
def test_a_checkpoint_with_excessive_sizes_is_refused(payload: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged or"):
        checkpoint.decode_checkpoint(payload)


def record_with(body: bytes) -> bytes:
    """Return an encoded record with that body and the correct hash."""
    data = encode_record(Record(key=KEY, kind="train", spec={}))
    start = data[: data.index(b'"record":') + len(b'"record":')]
    return start + body + f',"sha256":"{sha256(body).hexdigest()}"}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"key":"%s","kind":"train","spec":{"a":%s}}'
        % (KEY.encode(), b"[" * 9_999 + b"]" * 9_999),
        b'{"key":"%s","kind":"train","spec":{},"more":1' % KEY.encode(),
        b'{"key":["a"],"kind":7,"spec":null}',
    ],
    ids=["deep", "deep inside", "truncated", "wrong types"],
)
def test_an_invalid_record_with_a_correct_hash_is_refused(store: TrialStore, body: bytes) -> None:
    store.objects.put(paths.record(KEY), record_with(body))
    with pytest.raises(Damaged, match=f"{KEY}.json: damaged record"):
        store.record(KEY)


def test_the_record_of_another_trial_is_refused(store: TrialStore) -> None:
    other = Record(key="cd" * 32, kind="train", spec={})
    store.commit(other)
    store.commit(replace(other, key=KEY))
    store.objects.put(paths.record(KEY), store.objects.get(paths.record(other.key)))
    with pytest.raises(Damaged, match=f"another trial, {other.key}"):
        TrialStore(store.objects).record(KEY)


def test_weights_at_a_foreign_path_are_checked_against_their_hash(store: TrialStore) -> None:
    """A record may name any path for its weights; the object there must have the given hash."""
    store.objects.put("other/path", b"other content")
    with pytest.raises(Damaged):
        store.weights(WeightsRef(path="other/path", sha256="0" * 64, bytes=13))


BOMB = """
import resource, sys
from pathlib import Path
from orchestrator.errors import Damaged
from orchestrator.store.parquet import decode_ticket
data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_ticket(data, sys.argv[2], where="bomb")
except Damaged:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_ticket_that_unpacks_to_gigabytes_is_rejected_early(tmp_path: Path) -> None:
    """Eight tensors of 32 MB in some kB: only the first one is unpacked."""
    file = tmp_path / "bomb.parquet"
    file.write_bytes(hostile_files.decompression_bomb(1 << 25))
    assert file.stat().st_size < 100_000
    command = [sys.executable, "-c", BOMB, str(file), hostile_files.sample_ticket().sha256]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 128 * 1024, "growth of peak memory in kB"
