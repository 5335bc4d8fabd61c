"""`sweepstakes cluster`: manifests and policies from a profile, and one line for an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers.base import Provider, SubmittedSweep
from orchestrator.api.providers import PROVIDERS
from orchestrator.cli.main import cli
from orchestrator.errors import InputError
from orchestrator.sweep.config import Sweep
from tests.support import own_files, plugins, toy_runs
from tests.support import shipped_profiles as profiles
from tests.support.sweeps import sweep_document

STORE = {"url": "s3://my-tickets/vlt", "region": "eu-central-1"}
PLACEMENT: dict[str, Any] = {
    "store": STORE,
    "tracking": "http://sweepstakes-mlflow:5000",
    "cluster": "profile.yaml",
    "gpus": 1.0,
}
RENDER = ("render", "profile.yaml", "--to", "out", "--sweep")
SUBMIT = ("submit", "--address", "http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("profile.yaml").write_text(profiles.KUBERAY.read_text())
    Path("machines.yaml").write_text(profiles.AWS.read_text())


def sweepstakes(*arguments: str) -> Result:
    group = [] if arguments[0] == "submit" else ["cluster"]
    return CliRunner().invoke(cli, [*group, *arguments])


def refused(*arguments: str) -> str:
    """The error of a command, which must be one line."""
    error = sweepstakes(*arguments).exception
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    assert "\n" not in str(error)
    return str(error)


def write_sweep(**placement: Any) -> str:
    content = sweep_document() | {"placement": PLACEMENT | placement}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    return "sweep.yaml"


def names(folder: str) -> set[str]:
    return {entry.name for entry in Path(folder).iterdir()}


def test_a_profile_is_rendered_for_its_provider_repeatedly() -> None:
    for _ in range(2):
        assert sweepstakes("render", "profile.yaml", "--to", "out").exit_code == 0
        assert names("out") == {"0-namespace.yaml", "1-mlflow.yaml", "2-cluster.yaml"}
    assert sweepstakes("render", "machines.yaml", "--to", "aws").exit_code == 0
    assert names("aws") == {"cluster.yaml", "head-policy.json", "store-policy.json"}


@pytest.mark.parametrize("profile", ["profile.yaml", "test.yaml"])
def test_a_sweep_becomes_a_job_that_finds_its_profile(tmp_path: Path, profile: str) -> None:
    """Also if the profile has the name of the sweep, `test`."""
    Path(profile).write_text(profiles.KUBERAY.read_text())
    done = sweepstakes("render", profile, "--to", "out", "--sweep", write_sweep(cluster=profile))
    assert done.exit_code == 0, done.exception
    assert names("out") == {"0-namespace.yaml", "1-mlflow.yaml", "2-job.yaml"}
    assert "delete rayjob sweep-test" in done.output
    config, job = yaml.safe_load_all(Path("out/2-job.yaml").read_text())
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (items,) = (one["configMap"]["items"] for one in head["volumes"] if "configMap" in one)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for item in items:
        (mounted / item["path"]).write_text(config["data"][item["key"]])
    assert (mounted / profile).read_text() == Path(profile).read_text()
    assert Sweep.from_file(mounted / "test.sweep.yaml") == Sweep.from_file(Path("sweep.yaml"))


@pytest.mark.parametrize(
    ("placement", "key", "advice"),
    [
        ({"store": "local"}, "placement.store", "use {url: s3://my-tickets/vlt"),
        ({"store": STORE | {"endpoint": "http://x"}}, "placement.store", "use {url: s3"),
        ({"tracking": "local"}, "placement.tracking", "use http://sweepstakes-mlflow:5000"),
        ({"cluster": "machines.yaml"}, "placement.cluster", "use profile.yaml"),
        ({"gpus": 8.0}, "8 GPUs", "add a node type"),
    ],
)
def test_a_sweep_that_does_not_fit_the_cluster_is_refused(
    placement: dict[str, Any], key: str, advice: str
) -> None:
    sweep = write_sweep(**placement)
    message = refused("render", "profile.yaml", "--to", "out", "--sweep", sweep)
    assert message.startswith("sweep.yaml: ")
    assert key in message
    assert advice in message
    assert not Path("out").exists()


def test_a_profile_outside_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    sweep = write_sweep(cluster="../profile.yaml")
    message = refused("render", "../profile.yaml", "--to", "out", "--sweep", sweep)
    assert "placement.cluster = '../profile.yaml' is not the path of a file relative to" in message


@pytest.mark.parametrize("written", ["{here}/profile.yaml", "~/profile.yaml", "$HERE/profile.yaml"])
@pytest.mark.parametrize("command", ["render", "submit"])
def test_a_profile_must_be_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, written: str
) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep = write_sweep(cluster=written.format(here=tmp_path))
    message = refused(*(SUBMIT if command == "submit" else RENDER), sweep)
    assert message.startswith("sweep.yaml: placement.cluster = ")
    assert message.endswith("use profile.yaml")


def test_a_job_gets_the_files_of_the_users_own_parts(tmp_path: Path) -> None:
    Path("own").mkdir()
    texts = {
        "my_task.py": own_files.TASK,
        "first_weights.py": own_files.PRUNER,
        "toy_model.py": toy_runs.FILE.read_text(),
        "descent.py": own_files.OPTIMIZER,
    }
    for name, text in texts.items():
        Path("own", name).write_text(text)
    content = sweep_document(task="mine", recipe="default") | {
        "placement": PLACEMENT,
        "models": {"toy": {"module": "own/toy_model.py"}},
        "tasks": {"mine": {"module": "own/my_task.py"}},
        "pruners": {"first": {"module": "own/first_weights.py"}},
        "modules": ["own/descent.py"],
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    done = sweepstakes(*RENDER, "sweep.yaml")
    assert done.exit_code == 0, done.exception
    config = next(yaml.safe_load_all(Path("out/2-job.yaml").read_text()))
    assert {*texts.values()} <= {*config["data"].values()}


@pytest.mark.parametrize("command", [RENDER, SUBMIT])
@pytest.mark.parametrize(
    ("section", "entry", "key"),
    [
        ("models", {"mine": {"module": "../mine.py"}}, "models.mine.module"),
        ("tasks", {"mine": {"module": "../mine.py"}}, "tasks.mine.module"),
        ("modules", ["../mine.py"], "modules[0]"),
    ],
)
def test_a_file_outside_the_folder_is_refused(
    tmp_path: Path, command: tuple[str, ...], section: str, entry: object, key: str
) -> None:
    content = sweep_document() | {"placement": PLACEMENT, section: entry}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    assert f"{key} = '../mine.py'" in refused(*command, "sweep.yaml")


def write_task(data: str) -> str:
    tasks = {"mine": {"task": "nlvr2", "data": data}}
    content = sweep_document() | {"placement": PLACEMENT, "tasks": tasks}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    return "sweep.yaml"


@pytest.mark.parametrize("data", ["/home/me", "/data/../home/me", "relative", "~/data"])
def test_data_outside_the_mounts_are_refused(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.setenv("HOME", "/data")
    message = refused(*RENDER, write_task(data))
    assert "tasks.mine.data = " in message
    assert "is in none of the profile's mounts (/data, /weights)" in message


def test_variables_are_sent_with_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLT_DATA", "/data")
    monkeypatch.setenv("UNIT", "8")
    assert sweepstakes(*RENDER, write_task("$VLT_DATA/${UNIT}")).exit_code == 0
    _, job = yaml.safe_load_all(Path("out/2-job.yaml").read_text())
    variables = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables.items() >= {"VLT_DATA": "/data", "UNIT": "8"}.items()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("NEVER_SET", "set it to the value that it has on the cluster"),
        ("MY_SECRET", "secrets are not sent"),
        ("PATH", "write the path on the cluster"),
    ],
)
@pytest.mark.parametrize("command", ["render", "submit"])
def test_a_variable_that_cannot_be_sent_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, name: str, advice: str
) -> None:
    monkeypatch.setenv("MY_SECRET", "do-not-tell")
    message = refused(*(SUBMIT if command == "submit" else RENDER), write_task(f"${{{name}}}/x"))
    assert message.startswith(f"sweep.yaml: tasks.mine.data: ${name} ")
    assert advice in message
    assert "do-not-tell" not in message


def test_a_folder_with_other_files_is_left_unchanged() -> None:
    assert sweepstakes("render", "profile.yaml", "--to", "out").exit_code == 0
    Path("out/.2-job.yaml.partial").touch()  # left by a killed command; kubectl ignores it
    assert sweepstakes("render", "profile.yaml", "--to", "out").exit_code == 0
    Path("out/.2-job.yaml.partial").unlink()
    before = Path("out/1-mlflow.yaml").stat().st_mtime_ns
    message = refused("render", "profile.yaml", "--to", "out", "--sweep", write_sweep())
    assert "also contains 2-cluster.yaml; use an empty folder" in message
    assert names("out") == {"0-namespace.yaml", "1-mlflow.yaml", "2-cluster.yaml"}
    assert Path("out/1-mlflow.yaml").stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_created_is_refused() -> None:
    message = refused("render", "profile.yaml", "--to", "profile.yaml/out")
    assert "profile.yaml/out: no file can be written here" in message


def test_the_provider_must_be_unique_and_configured() -> None:
    both = profiles.profile_document(
        profiles.KUBERAY, aws=profiles.profile_document(profiles.AWS)["aws"], mounts=[]
    )
    Path("both.yaml").write_text(yaml.safe_dump(both))
    assert "has several of `kubernetes`, `aws`; choose one with --provider" in refused(
        "render", "both.yaml", "--to", "out"
    )
    assert sweepstakes("render", "both.yaml", "--to", "out", "--provider", "aws").exit_code == 0
    message = refused("render", "profile.yaml", "--to", "aws", "--provider", "aws")
    assert "aws is missing, but --provider aws needs it; add it" in message


class _Slurm(Provider):
    section = "providers.slurm"

    def configured(self, profile: Profile) -> bool:
        return "slurm" in profile.providers

    def render(self, profile: Profile, sweep: SubmittedSweep | None) -> dict[str, str]:
        settings = profile.providers["slurm"]
        if "partition" not in settings:
            raise ProfileError("providers.slurm.partition is missing; add it")
        return {"job.sh": f"#SBATCH --partition={settings['partition']}\n"}

    def next_steps(
        self, profile: Profile, folder: Path, sweep_file: Path | None, sweep: SubmittedSweep | None
    ) -> dict[str, str]:
        return {"next": f"sbatch {folder / 'job.sh'}"}


def test_a_provider_from_outside_is_rendered_like_any_other() -> None:
    document = profiles.profile_document(profiles.KUBERAY)
    del document["kubernetes"]
    with plugins.registered(PROVIDERS, "slurm", _Slurm()):
        Path("slurm.yaml").write_text(yaml.safe_dump(document | {"providers": {"slurm": {}}}))
        assert "partition" in refused("render", "slurm.yaml", "--to", "out")
        settings = {"slurm": {"partition": "gpu"}}
        Path("slurm.yaml").write_text(yaml.safe_dump(document | {"providers": settings}))
        done = sweepstakes("render", "slurm.yaml", "--to", "out")
    assert done.exit_code == 0, done.exception
    assert Path("out/job.sh").read_text() == "#SBATCH --partition=gpu\n"
    assert "sbatch out/job.sh" in done.output


def test_the_policy_covers_only_this_store() -> None:
    document = json.loads(sweepstakes("policy", "profile.yaml").output)
    for statement in document["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            assert resource.startswith("arn:aws:s3:::my-tickets")
            assert statement["Sid"] == "List" or "/vlt/" in resource
    arn = "arn:aws:iam::123456789012:role/worker"
    bucket_policy = json.loads(sweepstakes("policy", "profile.yaml", "--principal", arn).output)
    assert bucket_policy["Statement"][0]["Principal"] == {"AWS": arn}
