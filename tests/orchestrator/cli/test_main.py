"""The command line: its surface, and what a mistake costs: one line and exit code 2."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml

from orchestrator.api import workspace
from orchestrator.cli import main as command_line
from orchestrator.cli import shared as cli_shared
from orchestrator.errors import StoreFull
from orchestrator.plan.graph import Plan, describe
from orchestrator.plan.keys import key_of, to_json
from orchestrator.store import paths
from orchestrator.store.record import Record
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TicketStore
from tests.support.profiles import SPOT, profile
from tests.support.small_store import HURRIED, fill, small_server
from tests.support.sweeps import document, plan_of, write
from trainables.spec import CutSpec, ModelSpec

SURFACE = {
    "": ["--help", "--home", "--version"],
    "cluster": ["--help"],
    "cluster policy": ["--help", "--principal", "--upkeep", "PATH"],
    "cluster render": ["--form", "--help", "--sweep", "--to", "PATH"],
    "data": ["--help"],
    "data check": ["--help", "PATH"],
    "data scenes": ["--difficulty", "--help", "--images", "--seed", "FOLDER"],
    "explain": ["--help", "--json", "KEY", "SWEEP"],
    "logs": ["--help", "--sweep", "KEY"],
    "plan": ["--help", "--json", "--offline", "SWEEP"],
    "report": ["--help", "--out", "SWEEP"],
    "run": ["--budget", "--help", "SWEEP"],
    "status": ["--help", "--watch", "SWEEP"],
    "submit": ["--address", "--detach", "--driver-on", "--help", "--working-dir", "SWEEP"],
    "sync": ["--help", "SWEEP"],
    "tickets": ["--help", "--sweep"],
    "tickets diff": ["--help", "--json", "A", "B"],
    "tickets export": ["--form", "--help", "--to", "--weights", "KEY"],
    "tickets gc": ["--abandoned", "--dry-run", "--help", "--older-than"],
    "tickets list": ["--help", "--json"],
    "tickets show": ["--help", "--json", "KEY"],
    "tickets verify": ["--help", "--repair"],
    "ui": ["--help"],
}
PLAN_KEYS = (
    *("name", "cells", "trials", "naive_trials", "rounds", "naive_rounds", "blocks", "by_kind"),
    *("existing", "to_run", "replays", "critical_path", "steps", "store_bytes", "estimate", "keys"),
)
PROFILE = yaml.safe_dump(profile(SPOT).model_dump())
TICKET_KEYS = (*("key", "model", "task", "level", "sparsity", "nnz", "bytes", "hash", "parents"),)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`sweepstakes --home HOME …` through its entry point."""

    def call(*arguments: str | Path) -> Ended:
        argv = ["sweepstakes", "--home", str(home), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, *capsys.readouterr())

    return call


def refused(ended: Ended, home: Path) -> str:
    """The one line that a mistake costs; nothing was started or written."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    served = [name for name in ("s3", "mlflow", "reports") if (home / name).exists()]
    assert not served
    return ended.err.removeprefix("error: ").strip()


def surface(command: click.Command, name: str = "") -> dict[str, list[str]]:
    context = click.Context(command, help_option_names=["--help"])
    words = [
        parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.name).upper()
        for parameter in command.get_params(context)
    ]
    found = {name: sorted(words)}
    for child in getattr(command, "commands", {}).values():
        found |= surface(child, f"{name} {child.name}".strip())
    return found


def test_the_surface() -> None:
    assert surface(command_line.cli) == SURFACE


def test_the_installed_command_is_this_one() -> None:
    script = Path(sys.executable).with_name("sweepstakes")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert all(name in done.stdout for name in SURFACE if name and " " not in name)


MISTAKES = {
    "unknown key": (
        document(sede=[0]),
        "studies.main.sede is not a known key; did you mean `seed`?",
    ),
    "wrong type": (document(seed="one"), "studies.main.seed = 'one' is not allowed"),
    "impossible value": (document(rewind=-5), "studies.main.rewind = -5 is not allowed; use 0 or"),
    "unknown model": (document(model="lxmret-tiny"), "'lxmret-tiny' is not known; use one of"),
    "unknown task": (document(task="easy_vqq"), "did you mean 'easy_vqa'?"),
    "missing data": (
        document(task="mine") | {"tasks": {"mine": {"task": "easy_vqa", "data": "/not/there"}}},
        "tasks.mine.data = /not/there is not there",
    ),
    "missing weights": (
        document(model="mine")
        | {"models": {"mine": {"architecture": "vilt", "weights": "no.bin"}}},
        "no.bin is not there",
    ),
    "no study": ({"name": "empty", "studies": {}}, "name a study"),
    "no seed": (document(seed=[]), "name a study"),
}


@pytest.mark.parametrize("command", ["plan", "run", "status", "sync", "report"])
def test_a_mistake_in_a_sweep_is_one_line(
    call: Call, home: Path, tmp_path: Path, command: str
) -> None:
    for content, words in MISTAKES.values():
        path = write(tmp_path, content)
        line = refused(call(command, path), home)
        assert line.startswith(f"{path}: ")
        assert words in line


def test_files_that_are_no_sweep(call: Call, home: Path, tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    assert "not UTF-8" in refused(call("run", binary), home)
    assert "cannot be read" in refused(call("run", tmp_path / "nowhere.yaml"), home)
    assert "cannot be read" in refused(call("run", tmp_path), home)


def test_a_home_that_cannot_be_one(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWEEPSTAKES_HOME", str(tmp_path / "file"))
    sweep = write(tmp_path, document())
    ended = call("--home", tmp_path / "file" / "below", "run", sweep)
    assert "choose another folder" in refused(ended, tmp_path / "file")
    assert call("--home", tmp_path / "file" / "below", "plan", sweep).code == 0


def with_store(folder: Path, url: str, endpoint: str, tracking: str = "none") -> Path:
    """A good sweep on the given store, without MLflow."""
    store = {"url": url, "endpoint": endpoint}
    return write(folder, document() | {"placement": {"store": store, "tracking": tracking}})


@pytest.fixture
def dead_endpoint() -> Any:
    """An address where nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("keys")
def test_a_store_that_is_not_reached(
    call: Call, home: Path, tmp_path: Path, dead_endpoint: str
) -> None:
    begin = time.monotonic()
    ended = call("run", with_store(tmp_path, "s3://tickets", dead_endpoint))
    line = refused(ended, home)
    assert time.monotonic() - begin < 60
    assert dead_endpoint in line
    assert "check the address" in line


@pytest.mark.usefixtures("keys")
def test_a_store_that_ignores_conditional_put(
    call: Call, home: Path, tmp_path: Path, careless_server: str
) -> None:
    line = refused(call("run", with_store(tmp_path, "s3://tickets", careless_server)), home)
    assert "ignores conditional PUT" in line


@pytest.mark.usefixtures("keys")
def test_a_store_without_space(call: Call, home: Path, tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    with small_server(server) as endpoint:
        with pytest.raises(StoreFull):
            fill(S3Objects(StoreAddress(url="s3://tickets", endpoint=endpoint), patience=HURRIED))
        line = refused(call("run", with_store(tmp_path, "s3://tickets", endpoint)), home)
    assert "disk is most likely full" in line


def test_wrong_credentials(
    call: Call, home: Path, tmp_path: Path, address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    line = refused(call("run", with_store(tmp_path, address.url, address.endpoint)), home)
    assert "refused the credentials" in line
    assert "hunter2" not in line


def test_a_bucket_that_is_not_there(
    call: Call, home: Path, tmp_path: Path, address: StoreAddress
) -> None:
    line = refused(call("run", with_store(tmp_path, "s3://tickest", address.endpoint)), home)
    assert "no such bucket" in line


@pytest.mark.parametrize(("tracking", "words"), [("none", "none"), ("dead", "MLflow cannot")])
def test_syncing_without_an_mlflow(
    call: Call,
    home: Path,
    tmp_path: Path,
    address: StoreAddress,
    dead_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    tracking: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = dead_endpoint if tracking == "dead" else tracking
    sweep = with_store(tmp_path, address.url, address.endpoint, tracking=uri)
    line = refused(call("sync", sweep), home)
    assert words in line
    assert "placement.tracking" in line
    assert {path.name for path in tmp_path.iterdir()} <= {"sweep.yaml", "home"}


def test_plan_as_json(call: Call, tmp_path: Path) -> None:
    ended = call("plan", write(tmp_path, document()), "--json")
    assert ended.code == 0
    shown = json.loads(ended.out)
    assert tuple(shown) == PLAN_KEYS
    assert (shown["trials"], shown["to_run"], shown["existing"]) == (9, 9, 0)
    assert shown["estimate"] is None
    plan = plan_of(document())
    assert len(shown["keys"]) == len(plan)
    assert set(shown["keys"].values()) == {describe(trial) for trial in plan}


def on_cluster(folder: Path, text: str, **placement: Any) -> Path:
    """A sweep whose placement names a cluster profile with this text."""
    (folder / "cluster.yaml").write_text(text)
    content = document() | {"placement": {"cluster": str(folder / "cluster.yaml")} | placement}
    return write(folder, content)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("text", "placement", "words"),
    [
        ("nmae: x", {}, "nmae is not a known key; did you mean `name`?"),
        (PROFILE, {"gpus": 9}, "a trial needs 1 CPUs and 9 GPUs on a node"),
        (PROFILE, {"gpus": 1, "workers": 18, "nodes": 9}, "on each of 9 nodes"),
    ],
    ids=["no profile", "too many GPUs", "too many nodes"],
)
def test_a_cluster_that_cannot_hold_a_trial(
    call: Call,
    home: Path,
    tmp_path: Path,
    command: str,
    text: str,
    placement: dict[str, Any],
    words: str,
) -> None:
    sweep = on_cluster(tmp_path, text, **placement)
    line = refused(call(command, sweep), home)
    assert line.startswith(str(sweep))
    assert words in line


def test_a_budget_needs_prices(call: Call, home: Path, tmp_path: Path) -> None:
    line = refused(call("run", write(tmp_path, document()), "--budget", "5"), home)
    assert "placement.cluster is missing" in line


def test_money_is_not_guessed(call: Call, tmp_path: Path) -> None:
    words = call("plan", on_cluster(tmp_path, PROFILE)).out
    assert words.count("not measured yet") == 2


def cut_record(seed: int, ticket: Ticket, store: TicketStore) -> Record:
    spec = CutSpec(
        model=ModelSpec(architecture="uniter", size="tiny"),
        method="random",
        sparsity=0.5,
        seed=seed,
    )
    record = Record(
        key=key_of(spec),
        kind="cut",
        spec=to_json(spec),
        about={"sweep": "test", "model": "uniter-tiny", "task": "easy_vqa", "level": 1},
        ticket=store.put_ticket(ticket),
        created="2026-01-02T03:04:05Z",
    )
    store.commit(record)
    return record


def make_ticket(seed: int) -> Ticket:
    kept = np.random.default_rng(seed).permutation(128).reshape(8, 16) < 64
    masks = {"encoder.layer.0.output": kept}
    return Ticket.from_masks(masks, scheme="uniter", model_sha256="0" * 64, pool="encoder")


@pytest.fixture
def cuts(store: TicketStore) -> list[Record]:
    """Two committed tickets of 64 of 128 weights."""
    return [cut_record(seed, make_ticket(seed), store) for seed in (0, 1)]


@pytest.fixture
def in_store(call: Call, tmp_path: Path, address: StoreAddress) -> Call:
    """`sweepstakes tickets --sweep SWEEP …` on the store of the test."""
    sweep = with_store(tmp_path, address.url, address.endpoint)
    return lambda *arguments: call("tickets", "--sweep", sweep, *arguments)


def test_tickets_as_json(in_store: Call, cuts: list[Record]) -> None:
    rows = json.loads(in_store("list", "--json").out)
    assert [tuple(row) for row in rows] == [TICKET_KEYS] * 2
    assert {row["key"] for row in rows} == {record.key for record in cuts}
    assert {row["hash"] for row in rows} == {make_ticket(0).sha256, make_ticket(1).sha256}
    assert [(row["nnz"], row["sparsity"], row["parents"]) for row in rows] == [(64, 0.5, [])] * 2


def test_a_ticket_is_found_by_the_beginning_of_its_key_or_hash(
    in_store: Call, cuts: list[Record]
) -> None:
    assert cuts[0].ticket is not None
    for beginning in (cuts[0].key[:10], cuts[0].ticket.sha256[:10]):
        shown = json.loads(in_store("show", beginning, "--json").out)
        assert shown["key"] == cuts[0].key
        assert shown["layers"][0]["kept"] == 64


@pytest.mark.parametrize("beginning", ["", "f" * 64])
def test_a_name_for_no_ticket_or_several(
    in_store: Call, home: Path, cuts: list[Record], beginning: str
) -> None:
    assert "`sweepstakes tickets list`" in refused(in_store("show", beginning), home)


def test_the_overlap_of_two_tickets(in_store: Call, cuts: list[Record]) -> None:
    rows = json.loads(in_store("diff", cuts[0].key, cuts[1].key, "--json").out)
    ours, theirs = (make_ticket(seed).masks()["encoder.layer.0.output"] for seed in (0, 1))
    assert rows[0]["both"] == int((ours & theirs).sum())
    assert rows[-1]["overlap"] == pytest.approx((ours & theirs).sum() / (ours | theirs).sum())


def test_a_damaged_ticket_is_named(
    in_store: Call, home: Path, store: TicketStore, cuts: list[Record]
) -> None:
    ref = cuts[0].ticket
    assert ref is not None
    path = paths.ticket(ref.sha256)
    assert in_store("verify").code == 0

    data = bytearray(store.objects.get(path))
    data[data.index(make_ticket(0).tensors[0].bits)] ^= 1
    store.objects.put(path, bytes(data))
    line = refused(in_store("show", cuts[0].key), home)
    assert store.objects.where(path) in line
    assert "tickets verify --repair" in line

    found = in_store("verify")
    assert found.code == 1
    assert store.objects.where(path) in found.out
    assert in_store("verify", "--repair").code == 0
    assert in_store("verify").code == 0
    assert store.keys() == {cuts[1].key}


def test_only_old_orphans_go(in_store: Call, store: TicketStore, cuts: list[Record]) -> None:
    orphan = store.put_ticket(make_ticket(2))
    assert "0 objects" in in_store("gc").out
    told = in_store("gc", "--dry-run", "--older-than", "0")
    assert f"would delete {paths.ticket(orphan.sha256)}" in told.out
    assert store.ticket(orphan.sha256) == make_ticket(2)
    assert "1 objects" in in_store("gc", "--older-than", "0").out
    assert store.objects.stat(paths.ticket(orphan.sha256)) is None
    assert in_store("verify").code == 0


@pytest.fixture
def planned(address: StoreAddress, tmp_path: Path, home: Path) -> tuple[Path, Plan]:
    """A sweep on the store of the test, and its plan."""
    sweep = with_store(tmp_path, address.url, address.endpoint)
    return sweep, workspace.planned(sweep, home).plan


def test_logs_by_the_beginning_of_a_key(
    call: Call, home: Path, store: TicketStore, planned: tuple[Path, Plan]
) -> None:
    sweep, plan = planned
    cut = next(trial for trial in plan if trial.rides)
    store.put_log(cut.rides, "=== attempt 1\nit broke\n")
    store.put_log("f" * 64, "another\n")

    def told(key: str) -> Ended:
        return call("logs", key, "--sweep", sweep)

    assert told(cut.rides[:8]).out == "=== attempt 1\nit broke\n"
    store.commit(Record(key=cut.key, kind="cut", spec=to_json(cut.spec)))
    assert told(cut.key[:8]).out == "=== attempt 1\nit broke\n", "the log of the run it rides"
    assert "begins the key of no log" in refused(told("0123456789"), home)
    assert "begins no key" in refused(told("../../etc"), home)
    store.put_log("f" * 63 + "0", "a third")
    assert "keys of 2 logs" in refused(told("ffff"), home)


def test_logs_where_no_sweep_has_run(call: Call, home: Path) -> None:
    assert "no sweep has run here" in refused(call("logs", "abc"), home)


def test_what_failed_is_in_sight_and_explained(
    call: Call, home: Path, store: TicketStore, planned: tuple[Path, Plan]
) -> None:
    sweep, plan = planned
    head = next(iter(plan.training_runs())).key
    store.note_failure(head, {"error": "it broke", "attempts": 3, "host": "node-a", "trace": ""})
    told = call("status", sweep)
    assert told.code == 0, told
    assert "0/9 trials, 0 running, 1 failed, 4 blocked; nobody is at work" in told.out
    assert f"failed {head[:12]}" in told.out
    assert "(attempt 3, node-a): it broke" in " ".join(told.out.split())

    rows = json.loads(call("explain", sweep, head[:12], "--json").out)
    assert rows["trial"][0] == head
    assert rows["last failure"] == ["error it broke", "attempts 3", "host node-a"]
    assert head in call("explain", sweep, head).out
    assert "`sweepstakes plan SWEEP --json`" in refused(call("explain", sweep, "zz"), home)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tickets", "gc", "--older-than", "nan"),
        ("tickets", "gc", "--older-than", "1e12"),
        ("run", "sweep.yaml", "--budget", "nan"),
        ("run", "sweep.yaml", "--budget", "inf"),
    ],
)
def test_hours_and_money_are_finite(call: Call, arguments: tuple[str, ...]) -> None:
    ended = call(*arguments)
    assert ended.code == 2
    assert f"Invalid value for '{arguments[-2]}'" in ended.err


def test_a_report_that_cannot_be_written(
    call: Call, home: Path, planned: tuple[Path, Plan], store: TicketStore
) -> None:
    sweep, _ = planned
    line = refused(call("report", sweep, "--out", f"{sweep}/below"), home)
    assert line.startswith(f"{sweep}/below: ")
    assert "sweepstakes report SWEEP --out FOLDER" in line
    home.mkdir(exist_ok=True)
    (home / "reports").touch()
    ended = call("run", sweep)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {home}/reports/test: ")
    assert not store.keys(), "told before the first trial"


def test_a_pipe_and_a_narrow_terminal_show_whole_numbers(
    in_store: Call, cuts: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(in_store("list", "--json").out)
    for width in (None, 72):
        if width:
            monkeypatch.setattr(cli_shared.out, "width", width)
        words = in_store("list").out.split()
        for row in rows:
            assert {row["key"][:12], row["hash"][:12], f"{row['bytes']:,}"} <= set(words)


def test_output_in_ascii(
    call: Call, planned: tuple[Path, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert call("status", planned[0]).code == 0
    assert b"uniter-tiny easy_vqa theta_0" in written.getvalue()


def test_output_that_has_no_room(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        ended = call("plan", write(tmp_path, document()))
    assert ended.code == 1
    assert ended.err.endswith("No space left on device; make room, or write it elsewhere\n")


INTERRUPTED = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "orchestrator.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from orchestrator.__main__ import main
main()
"""


def test_ctrl_c_while_the_commands_are_loading() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"")
