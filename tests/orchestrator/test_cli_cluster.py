"""`sweepstakes cluster`: one profile in, whole folders of manifests out, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from orchestrator import sweep_file
from orchestrator.cli import cli
from orchestrator.errors import InputError
from tests.cluster import profiles
from tests.orchestrator.sweeps import document

STORE = {"url": "s3://my-tickets/vlt", "region": "eu-central-1"}
PLACEMENT: dict[str, Any] = {
    "store": STORE,
    "tracking": "http://sweepstakes-mlflow:5000",
    "cluster": "profile.yaml",
    "gpus": 1.0,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("profile.yaml").write_text(profiles.KUBERAY.read_text())
    Path("machines.yaml").write_text(profiles.AWS.read_text())


def sweepstakes(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["cluster", *arguments])


def refused(*arguments: str) -> str:
    """The one line that a command ends with."""
    error = sweepstakes(*arguments).exception
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    assert "\n" not in str(error)
    return str(error)


def write_sweep(**placement: Any) -> str:
    content = document() | {"placement": PLACEMENT | placement}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    return "sweep.yaml"


def names(folder: str) -> set[str]:
    return {entry.name for entry in Path(folder).iterdir()}


def test_a_profile_is_rendered_in_its_form_again_and_again() -> None:
    for _ in range(2):
        assert sweepstakes("render", "profile.yaml", "--to", "out").exit_code == 0
        assert names("out") == {"0-namespace.yaml", "1-mlflow.yaml", "2-cluster.yaml"}
    assert sweepstakes("render", "machines.yaml", "--to", "aws").exit_code == 0
    assert names("aws") == {"cluster.yaml", "head-policy.json", "store-policy.json"}


def test_a_sweep_becomes_a_job_that_finds_its_profile(tmp_path: Path) -> None:
    done = sweepstakes("render", "profile.yaml", "--to", "out", "--sweep", write_sweep())
    assert done.exit_code == 0, done.exception
    assert names("out") == {"0-namespace.yaml", "1-mlflow.yaml", "2-job.yaml"}
    config, job = yaml.safe_load_all(Path("out/2-job.yaml").read_text())
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (items,) = (one["configMap"]["items"] for one in head["volumes"] if "configMap" in one)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for item in items:
        (mounted / item["path"]).write_text(config["data"][item["key"]])
    assert (mounted / "profile.yaml").read_text() == Path("profile.yaml").read_text()
    assert sweep_file.load(mounted / "test.yaml") == sweep_file.load(Path("sweep.yaml"))


@pytest.mark.parametrize(
    ("placement", "where", "cure"),
    [
        ({"store": "local"}, "placement.store", "use {url: s3://my-tickets/vlt"),
        ({"store": STORE | {"endpoint": "http://x"}}, "placement.store", "use {url: s3"),
        ({"tracking": "local"}, "placement.tracking", "use http://sweepstakes-mlflow:5000"),
        ({"cluster": "machines.yaml"}, "placement.cluster", "use profile.yaml"),
        ({"gpus": 8.0}, "8 GPUs", "add a node type"),
    ],
)
def test_a_sweep_that_does_not_fit_the_cluster(
    placement: dict[str, Any], where: str, cure: str
) -> None:
    sweep = write_sweep(**placement)
    message = refused("render", "profile.yaml", "--to", "out", "--sweep", sweep)
    assert message.startswith("sweep.yaml: ")
    assert where in message
    assert cure in message
    assert not Path("out").exists()


def test_a_profile_outside_of_the_folder_cannot_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    sweep = write_sweep(cluster="../profile.yaml")
    message = refused("render", "../profile.yaml", "--to", "out", "--sweep", sweep)
    assert "placement.cluster lies outside of this folder" in message


def test_data_that_the_nodes_cannot_see() -> None:
    Path("sweep.yaml").write_text(
        yaml.safe_dump(
            document()
            | {"placement": PLACEMENT, "tasks": {"mine": {"task": "nlvr2", "data": "/home/me"}}}
        )
    )
    message = refused("render", "profile.yaml", "--to", "out", "--sweep", "sweep.yaml")
    assert "tasks.mine.data = '/home/me' is in none of the profile's mounts (/data, /" in message


def test_a_folder_with_something_else_in_it_is_left_alone() -> None:
    assert sweepstakes("render", "profile.yaml", "--to", "out").exit_code == 0
    before = Path("out/1-mlflow.yaml").stat().st_mtime_ns
    message = refused("render", "profile.yaml", "--to", "out", "--sweep", write_sweep())
    assert "holds 2-cluster.yaml too; give an empty folder" in message
    assert names("out") == {"0-namespace.yaml", "1-mlflow.yaml", "2-cluster.yaml"}
    assert Path("out/1-mlflow.yaml").stat().st_mtime_ns == before


def test_the_form_has_to_be_known() -> None:
    both = profiles.document(profiles.KUBERAY, aws=profiles.document(profiles.AWS)["aws"])
    Path("both.yaml").write_text(yaml.safe_dump(both))
    assert "it has both; choose with --form" in refused("render", "both.yaml", "--to", "out")
    assert sweepstakes("render", "both.yaml", "--to", "out", "--form", "aws").exit_code == 0
    message = refused("render", "profile.yaml", "--to", "aws", "--form", "aws")
    assert "aws is missing, which --form aws needs; add it" in message


def test_the_policy_is_for_this_store_alone() -> None:
    document = json.loads(sweepstakes("policy", "profile.yaml").output)
    for statement in document["Statement"]:
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            assert resource.startswith("arn:aws:s3:::my-tickets")
            assert statement["Sid"] == "List" or "/vlt/" in resource
    arn = "arn:aws:iam::123456789012:role/worker"
    for_bucket = json.loads(sweepstakes("policy", "profile.yaml", "--principal", arn).output)
    assert for_bucket["Statement"][0]["Principal"] == {"AWS": arn}
