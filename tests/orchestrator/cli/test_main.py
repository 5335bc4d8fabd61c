"""The command line: its options, and errors of one line with exit code 2."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml

from orchestrator.api import workspace
from orchestrator.cli import main, shared
from orchestrator.errors import StoreFull
from orchestrator.plan.graph import Plan, describe_trial
from orchestrator.plan.keys import key_of, to_json
from orchestrator.schedule.strategy import STRATEGIES, StrategyEntry
from orchestrator.store import paths
from orchestrator.store.record import Record
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TrialStore
from tests.support.harness import CommandResult
from tests.support.plugins import registered
from tests.support.profiles import SPOT, profile
from tests.support.results import run_result
from tests.support.small_store import SHORT_TIMEOUTS, fill_store, small_server
from tests.support.sweeps import plan_of, sweep_document, write_sweep
from trainables.spec import ModelSpec, PruneSpec

OPTIONS = {
    "": ["--help", "--home", "--version"],
    "cluster": ["--help"],
    "cluster policy": ["--help", "--maintenance", "--principal", "PATH"],
    "cluster render": ["--help", "--provider", "--sweep", "--to", "PATH"],
    "data": ["--help"],
    "data check": ["--help", "PATH"],
    "data scenes": ["--difficulty", "--help", "--images", "--seed", "FOLDER"],
    "explain": ["--help", "--json", "KEY", "SWEEP"],
    "logs": ["--help", "--sweep", "KEY"],
    "plan": ["--help", "--json", "--offline", "SWEEP"],
    "report": ["--help", "--out", "SWEEP"],
    "run": ["--budget", "--help", "SWEEP"],
    "schema": ["--format", "--help"],
    "status": ["--help", "--watch", "SWEEP"],
    "submit": ["--address", "--detach", "--driver-resource", "--help", "--working-dir", "SWEEP"],
    "sync": ["--help", "SWEEP"],
    "tickets": ["--help", "--sweep"],
    "tickets diff": ["--help", "--json", "A", "B"],
    "tickets export": ["--format", "--help", "--to", "--weights", "KEY"],
    "tickets gc": ["--abandoned", "--dry-run", "--help", "--older-than"],
    "tickets list": ["--help", "--json"],
    "tickets show": ["--help", "--json", "KEY"],
    "tickets verify": ["--help", "--repair"],
    "ui": ["--help"],
}
PLAN_KEYS = (
    *("name", "cells", "training_runs", "naive_training_runs"),
    *("pretraining_runs", "naive_pretraining_runs", "studies", "trials_by_kind"),
    *("committed_trials", "new_runs", "replays", "skipped_runs"),
    *("critical_path", "remaining_steps", "store_bytes"),
    *("estimate", "keys"),
)
PROFILE = yaml.safe_dump(profile(SPOT).model_dump())
TICKET_KEYS = (
    *("key", "kind", "model", "task", "level", "sparsity", "nnz", "bytes", "hash", "parents"),
)


Call = Callable[..., CommandResult]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `sweepstakes --home HOME …` through its entry point."""

    def call(*arguments: str | Path) -> CommandResult:
        argv = ["sweepstakes", "--home", str(home), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main.main()
        code = exited.value.code
        assert code is None or isinstance(code, int)
        return CommandResult(code or 0, *capsys.readouterr())

    return call


def refused(result: CommandResult, home: Path) -> str:
    """The error of a command, which must be one line; nothing was started or written."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    created = [name for name in ("s3", "mlflow", "reports") if (home / name).exists()]
    assert not created
    return result.err.removeprefix("error: ").strip()


def options(command: click.Command, name: str = "") -> dict[str, list[str]]:
    context = click.Context(command, help_option_names=["--help"])
    names = [
        parameter.opts[-1] if isinstance(parameter, click.Option) else str(parameter.name).upper()
        for parameter in command.get_params(context)
    ]
    options_by_command = {name: sorted(names)}
    for child in getattr(command, "commands", {}).values():
        options_by_command |= options(child, f"{name} {child.name}".strip())
    return options_by_command


def test_every_command_has_its_options() -> None:
    assert options(main.cli) == OPTIONS


def test_the_installed_command_has_all_commands() -> None:
    script = Path(sys.executable).with_name("sweepstakes")
    done = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in OPTIONS if name and " " not in name)


INVALID_SWEEPS = {
    "unknown key": (
        sweep_document(sede=[0]),
        "studies.main.sede is not a known key; did you mean `seed`?",
    ),
    "wrong type": (sweep_document(seed="one"), "studies.main.seed = 'one' is not allowed"),
    "impossible value": (
        sweep_document(rewind=-5),
        "studies.main.rewind = -5 is not allowed; use 0 or",
    ),
    "unknown model": (
        sweep_document(model="lxmret-tiny"),
        "'lxmret-tiny' is not known; did you mean `lxmert-tiny`?",
    ),
    "unknown task": (sweep_document(task="easy_vqq"), "did you mean `easy_vqa`?"),
    "missing data": (
        sweep_document(task="mine")
        | {"tasks": {"mine": {"task": "easy_vqa", "data": "/not/there"}}},
        "tasks.mine.data = /not/there does not exist",
    ),
    "missing weights": (
        sweep_document(model="mine")
        | {"models": {"mine": {"architecture": "vilt", "weights": "no.bin"}}},
        "no.bin does not exist",
    ),
    "no study": ({"name": "empty", "studies": {}}, "name a study"),
    "no seed": (sweep_document(seed=[]), "name a study"),
}


@pytest.mark.parametrize("command", ["plan", "run", "status", "sync", "report"])
def test_an_invalid_sweep_gives_a_one_line_error(
    call: Call, home: Path, tmp_path: Path, command: str
) -> None:
    for content, message in INVALID_SWEEPS.values():
        path = write_sweep(tmp_path, content)
        line = refused(call(command, path), home)
        assert line.startswith(f"{path}: ")
        assert message in line


def test_a_file_that_is_not_a_sweep_is_refused(call: Call, home: Path, tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    assert "not UTF-8" in refused(call("run", binary), home)
    assert "cannot be read" in refused(call("run", tmp_path / "nowhere.yaml"), home)
    assert "cannot be read" in refused(call("run", tmp_path), home)


def test_a_home_that_cannot_be_created_is_refused(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWEEPSTAKES_HOME", str(tmp_path / "file"))
    sweep = write_sweep(tmp_path, sweep_document())
    result = call("--home", tmp_path / "file" / "below", "run", sweep)
    assert "choose another folder" in refused(result, tmp_path / "file")
    assert call("--home", tmp_path / "file" / "below", "plan", sweep).code == 0


def with_store(folder: Path, url: str, endpoint: str, tracking: str = "none") -> Path:
    """A valid sweep on the given store, by default without MLflow."""
    store = {"url": url, "endpoint": endpoint}
    return write_sweep(
        folder, sweep_document() | {"placement": {"store": store, "tracking": tracking}}
    )


@pytest.fixture
def dead_endpoint() -> Any:
    """An address where no process listens, and none can start to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("credentials")
def test_a_store_that_cannot_be_reached_is_reported(
    call: Call, home: Path, tmp_path: Path, dead_endpoint: str
) -> None:
    result = call("run", with_store(tmp_path, "s3://tickets", dead_endpoint))
    line = refused(result, home)
    assert dead_endpoint in line
    assert "check the address" in line


@pytest.mark.usefixtures("credentials")
def test_a_store_that_ignores_conditional_put_is_refused(
    call: Call, home: Path, tmp_path: Path, unconditional_server: str
) -> None:
    line = refused(call("run", with_store(tmp_path, "s3://tickets", unconditional_server)), home)
    assert "ignores conditional PUT" in line


@pytest.mark.usefixtures("credentials")
def test_a_store_without_space_is_reported(call: Call, home: Path, tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    with small_server(server) as endpoint:
        with pytest.raises(StoreFull):
            fill_store(
                S3ObjectStore(
                    StoreAddress(url="s3://tickets", endpoint=endpoint), timeouts=SHORT_TIMEOUTS
                )
            )
        line = refused(call("run", with_store(tmp_path, "s3://tickets", endpoint)), home)
    assert "disk is most likely full" in line


def test_wrong_credentials_are_reported_but_not_printed(
    call: Call, home: Path, tmp_path: Path, address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    line = refused(call("run", with_store(tmp_path, address.url, address.endpoint)), home)
    assert "refused the credentials" in line
    assert "hunter2" not in line


def test_a_bucket_that_does_not_exist_is_reported(
    call: Call, home: Path, tmp_path: Path, address: StoreAddress
) -> None:
    line = refused(call("run", with_store(tmp_path, "s3://tickest", address.endpoint)), home)
    assert "no such bucket" in line


@pytest.mark.parametrize(("tracking", "message"), [("none", "none"), ("dead", "MLflow cannot")])
def test_sync_without_mlflow(
    call: Call,
    home: Path,
    tmp_path: Path,
    address: StoreAddress,
    dead_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    tracking: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = dead_endpoint if tracking == "dead" else tracking
    sweep = with_store(tmp_path, address.url, address.endpoint, tracking=uri)
    line = refused(call("sync", sweep), home)
    assert message in line
    assert "placement.tracking" in line
    assert {path.name for path in tmp_path.iterdir()} <= {"sweep.yaml", "home"}


def test_plan_as_json(call: Call, tmp_path: Path) -> None:
    result = call("plan", write_sweep(tmp_path, sweep_document()), "--json")
    assert result.code == 0
    shown = json.loads(result.out)
    assert tuple(shown) == PLAN_KEYS
    numbers = (shown["training_runs"], shown["new_runs"], shown["committed_trials"])
    assert numbers == (9, 9, 0)
    assert shown["estimate"] is None
    plan = plan_of(sweep_document())
    assert len(shown["keys"]) == len(plan)
    assert set(shown["keys"].values()) == {describe_trial(trial) for trial in plan}


def test_skipped_trials_are_a_success_and_blocked_ones_are_not() -> None:
    assert main._exit_code(run_result(skipped=3)) == 0
    assert main._exit_code(run_result(skipped=3, blocked=1)) == shared.EXIT_INCOMPLETE


class DenseOnly:
    """A strategy that wants no ticket."""

    def wanted(self, plan: Plan, results: Mapping[str, float]) -> list[str]:
        return [trial.key for trial in plan.training_runs() if trial.level == 0]


def test_a_search_from_outside_skips_trials(call: Call, home: Path, tmp_path: Path) -> None:
    keys = json.loads(call("plan", write_sweep(tmp_path, sweep_document()), "--json").out)["keys"]
    sweep = write_sweep(tmp_path, sweep_document() | {"strategy": "dense"})
    assert "strategy = 'dense'" in refused(call("plan", sweep), home)
    with registered(STRATEGIES, "dense", StrategyEntry(create=lambda sweep: DenseOnly())):
        shown = json.loads(call("plan", sweep, "--json").out)
        assert (shown["training_runs"], shown["new_runs"], shown["skipped_runs"]) == (9, 1, 8)
        assert shown["keys"] == keys, "a strategy never changes a key"
        last = next(key for key, trial in keys.items() if trial.endswith("level 4"))
        explained = json.loads(call("explain", sweep, last, "--json").out)
        assert explained["state"][0].startswith("skipped: not needed")


def on_cluster(folder: Path, text: str, **placement: Any) -> Path:
    """A sweep whose placement names a cluster profile with this text."""
    (folder / "cluster.yaml").write_text(text)
    content = sweep_document() | {
        "placement": {"cluster": str(folder / "cluster.yaml")} | placement
    }
    return write_sweep(folder, content)


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("text", "placement", "message"),
    [
        ("nmae: x", {}, "nmae is not a known key; did you mean `name`?"),
        (PROFILE, {"gpus": 9}, "a trial needs 1 CPUs and 9 GPUs on a node"),
        (PROFILE, {"gpus": 1, "workers": 18, "nodes": 9}, "on each of 9 nodes"),
    ],
    ids=["no profile", "too many GPUs", "too many nodes"],
)
def test_a_cluster_where_no_trial_fits(
    call: Call,
    home: Path,
    tmp_path: Path,
    command: str,
    text: str,
    placement: dict[str, Any],
    message: str,
) -> None:
    sweep = on_cluster(tmp_path, text, **placement)
    line = refused(call(command, sweep), home)
    assert line.startswith(str(sweep))
    assert message in line


def test_a_budget_needs_prices(call: Call, home: Path, tmp_path: Path) -> None:
    line = refused(call("run", write_sweep(tmp_path, sweep_document()), "--budget", "5"), home)
    assert "placement.cluster is missing" in line


@pytest.mark.parametrize("amount", ["nan", "inf", "0", "-5"])
def test_a_budget_is_a_finite_amount_above_zero(
    call: Call, home: Path, tmp_path: Path, amount: str
) -> None:
    line = refused(call("run", on_cluster(tmp_path, PROFILE), "--budget", amount), home)
    assert line == f"budget = {float(amount)}; give a finite amount above 0"


def test_the_cost_is_unknown_without_measurements(call: Call, tmp_path: Path) -> None:
    output = call("plan", on_cluster(tmp_path, PROFILE)).out
    assert output.count("not measured yet") == 2


def ticket_record(seed: int, ticket: Ticket, store: TrialStore) -> Record:
    spec = PruneSpec(
        model=ModelSpec(architecture="uniter", size="tiny"),
        method="random",
        sparsity=0.5,
        seed=seed,
    )
    record = Record(
        key=key_of(spec),
        kind="prune",
        spec=to_json(spec),
        labels={"sweep": "test", "model": "uniter-tiny", "task": "easy_vqa", "level": 1},
        ticket=store.put_ticket(ticket),
        created_at="2026-01-02T03:04:05Z",
    )
    store.commit(record)
    return record


def make_ticket(seed: int) -> Ticket:
    kept = np.random.default_rng(seed).permutation(128).reshape(8, 16) < 64
    masks = {"encoder.layer.0.output": kept}
    return Ticket.from_arrays(masks, architecture="uniter", model_sha256="0" * 64, pool="encoder")


@pytest.fixture
def ticket_records(store: TrialStore) -> list[Record]:
    """Two committed tickets of 64 of 128 weights."""
    return [ticket_record(seed, make_ticket(seed), store) for seed in (0, 1)]


@pytest.fixture
def call_tickets(call: Call, tmp_path: Path, address: StoreAddress) -> Call:
    """Runs `sweepstakes tickets --sweep SWEEP …` on the store of the test."""
    sweep = with_store(tmp_path, address.url, address.endpoint)
    return lambda *arguments: call("tickets", "--sweep", sweep, *arguments)


def test_list_as_json(call_tickets: Call, ticket_records: list[Record]) -> None:
    rows = json.loads(call_tickets("list", "--json").out)
    assert [tuple(row) for row in rows] == [TICKET_KEYS] * 2
    assert {row["key"] for row in rows} == {record.key for record in ticket_records}
    assert {row["hash"] for row in rows} == {make_ticket(0).sha256, make_ticket(1).sha256}
    assert [(row["nnz"], row["sparsity"], row["parents"]) for row in rows] == [(64, 0.5, [])] * 2


def test_a_ticket_is_found_by_a_prefix_of_its_key_or_hash(
    call_tickets: Call, ticket_records: list[Record]
) -> None:
    assert ticket_records[0].ticket is not None
    for prefix in (ticket_records[0].key[:10], ticket_records[0].ticket.sha256[:10]):
        shown = json.loads(call_tickets("show", prefix, "--json").out)
        assert shown["key"] == ticket_records[0].key
        assert shown["layers"][0]["kept"] == 64


@pytest.mark.parametrize(
    ("prefix", "advice"), [("", "give more digits"), ("f" * 64, "`sweepstakes tickets list`")]
)
def test_a_prefix_that_does_not_match_exactly_one_ticket_is_refused(
    call_tickets: Call, home: Path, ticket_records: list[Record], prefix: str, advice: str
) -> None:
    assert advice in refused(call_tickets("show", prefix), home)


def test_the_overlap_of_two_tickets(call_tickets: Call, ticket_records: list[Record]) -> None:
    rows = json.loads(
        call_tickets("diff", ticket_records[0].key, ticket_records[1].key, "--json").out
    )
    ours, theirs = (make_ticket(seed).arrays()["encoder.layer.0.output"] for seed in (0, 1))
    assert rows[0]["both"] == int((ours & theirs).sum())
    assert rows[-1]["overlap"] == pytest.approx((ours & theirs).sum() / (ours | theirs).sum())


def test_a_damaged_ticket_is_reported_and_repaired(
    call_tickets: Call, home: Path, store: TrialStore, ticket_records: list[Record]
) -> None:
    ref = ticket_records[0].ticket
    assert ref is not None
    path = paths.ticket(ref.sha256)
    assert call_tickets("verify").code == 0

    data = bytearray(store.objects.get(path))
    data[data.index(make_ticket(0).tensors[0].bits)] ^= 1
    store.objects.put(path, bytes(data))
    line = refused(call_tickets("show", ticket_records[0].key), home)
    assert store.objects.url(path) in line
    assert "tickets verify --repair" in line

    verified = call_tickets("verify")
    assert verified.code == 1
    assert store.objects.url(path) in verified.out
    assert call_tickets("verify", "--repair").code == 0
    assert call_tickets("verify").code == 0
    assert store.keys() == {ticket_records[1].key}


def test_gc_deletes_only_old_orphans(
    call_tickets: Call, store: TrialStore, ticket_records: list[Record]
) -> None:
    orphan = store.put_ticket(make_ticket(2))
    assert "0 objects" in call_tickets("gc").out
    listed = call_tickets("gc", "--dry-run", "--older-than", "0")
    assert f"would delete {paths.ticket(orphan.sha256)}" in listed.out
    assert store.ticket(orphan.sha256) == make_ticket(2)
    assert "1 objects" in call_tickets("gc", "--older-than", "0").out
    assert store.objects.stat(paths.ticket(orphan.sha256)) is None
    assert call_tickets("verify").code == 0


@pytest.fixture
def planned_sweep(address: StoreAddress, tmp_path: Path, home: Path) -> tuple[Path, Plan]:
    """A sweep on the store of the test, with its plan."""
    sweep = with_store(tmp_path, address.url, address.endpoint)
    return sweep, workspace.plan_sweep(sweep, home).plan


def test_a_log_is_found_by_a_prefix_of_its_key(
    call: Call, home: Path, store: TrialStore, planned_sweep: tuple[Path, Plan]
) -> None:
    sweep, plan = planned_sweep
    ticket_trial = next(trial for trial in plan if trial.produced_by)
    store.put_log(ticket_trial.produced_by, "=== attempt 1\nit broke\n")
    store.put_log("f" * 64, "another\n")

    def logs(key: str) -> CommandResult:
        return call("logs", key, "--sweep", sweep)

    assert logs(ticket_trial.produced_by[:8]).out == "=== attempt 1\nit broke\n"
    store.commit(Record(key=ticket_trial.key, kind="prune", spec=to_json(ticket_trial.spec)))
    assert logs(ticket_trial.key[:8]).out == "=== attempt 1\nit broke\n", (
        "the log of the run that produced it"
    )
    assert "does not match the key of any log" in refused(logs("0123456789"), home)
    assert "is not a key" in refused(logs("../../etc"), home)
    store.put_log("f" * 63 + "0", "a third")
    assert "keys of 2 logs" in refused(logs("ffff"), home)


def test_logs_where_no_sweep_has_run(call: Call, home: Path) -> None:
    assert "no sweep has run here" in refused(call("logs", "abc"), home)


def test_a_failure_is_shown_and_explained(
    call: Call, home: Path, store: TrialStore, planned_sweep: tuple[Path, Plan]
) -> None:
    sweep, plan = planned_sweep
    key = next(iter(plan.training_runs())).key
    store.put_failure(key, {"error": "it broke", "attempts": 3, "host": "node-a", "trace": ""})
    shown = call("status", sweep)
    assert shown.code == 0, shown
    assert "0/9 trials, 0 running, 1 failed, 4 blocked; no worker is active" in shown.out
    assert f"failed {key[:12]}" in shown.out
    assert "(attempt 3, node-a): it broke" in " ".join(shown.out.split())

    rows = json.loads(call("explain", sweep, key[:12], "--json").out)
    assert rows["trial"][0] == key
    assert rows["last failure"] == ["error it broke", "attempts 3", "host node-a"]
    assert key in call("explain", sweep, key).out
    assert "`sweepstakes plan SWEEP --json`" in refused(call("explain", sweep, "zz"), home)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tickets", "gc", "--older-than", "nan"),
        ("tickets", "gc", "--older-than", "1e12"),
    ],
)
def test_hours_must_be_finite(call: Call, arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert f"Invalid value for '{arguments[-2]}'" in result.err


def test_a_report_that_cannot_be_written(
    call: Call, home: Path, planned_sweep: tuple[Path, Plan], store: TrialStore
) -> None:
    sweep, _ = planned_sweep
    line = refused(call("report", sweep, "--out", f"{sweep}/below"), home)
    assert line.startswith(f"{sweep}/below: ")
    assert "sweepstakes report SWEEP --out FOLDER" in line
    home.mkdir(exist_ok=True)
    (home / "reports").touch()
    result = call("run", sweep)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {home}/reports/test: ")
    assert not store.keys(), "the error comes before the first trial"


def test_a_pipe_and_a_narrow_terminal_show_complete_numbers(
    call_tickets: Call, ticket_records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(call_tickets("list", "--json").out)
    for width in (None, 72):
        if width:
            monkeypatch.setattr(shared.out, "width", width)
        output = call_tickets("list").out.split()
        for row in rows:
            assert {row["key"][:12], row["hash"][:12], f"{row['bytes']:,}"} <= set(output)


def test_output_in_ascii(
    call: Call, planned_sweep: tuple[Path, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert call("status", planned_sweep[0]).code == 0
    assert b"uniter-tiny easy_vqa theta_0" in written.getvalue()


def test_a_full_disk_gives_a_one_line_error(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = call("plan", write_sweep(tmp_path, sweep_document()))
    assert result.code == 1
    assert result.err.endswith("No space left on device; free some space, or write elsewhere\n")


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


def test_ctrl_c_during_the_imports() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"")
