"""The files for `ray up`: Ray's schema, and `ray up` itself with moto's EC2 and a fake ssh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers import aws
from tests.support import moto_process, shipped_profiles

SSH = """#!/bin/sh
# Acts as a machine: logs the command, and answers the commands of `ray up`.
echo "$*" >> "$NOTES"
case "$*" in
  *"command -v docker"*) echo /usr/bin/docker ;;
  *".Config.Env"*) echo '["HOME=/home/ray"]' ;;
  *"printenv HOME"*) echo /home/ray ;;
  *".Runtimes"*) echo nvidia-container-runtime ;;
  *"/proc/meminfo"*) echo "MemAvailable: 32000000 kB" ;;
esac
"""


def cluster_of(profile: Profile) -> dict[str, Any]:
    assert profile.aws
    config: dict[str, Any] = yaml.safe_load(aws.render(profile, profile.aws)["cluster.yaml"])
    return config


def test_the_configuration_matches_ray_s_schema() -> None:
    config = prepare_config(cluster_of(shipped_profiles.load_profile(shipped_profiles.AWS)))
    validate_config(config)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert {name: node["priority"] for name, node in types.items() if name != "head"} == {
        "spot": 10,
        "on-demand": 0,
    }
    assert config["max_workers"] == 36
    assert config["setup_commands"] == []


def test_the_container_sees_the_gpus_that_ray_counts() -> None:
    """Ray chooses NVIDIA's runtime, which exposes no GPUs by default."""
    options = cluster_of(shipped_profiles.load_profile(shipped_profiles.AWS))["docker"][
        "run_options"
    ]
    assert "--env=NVIDIA_VISIBLE_DEVICES=all" in options


def test_every_machine_has_a_role_an_encrypted_disk_and_no_key() -> None:
    config = cluster_of(shipped_profiles.load_profile(shipped_profiles.AWS))
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        role = "head" if name == "head" else "worker"
        assert node["IamInstanceProfile"] == {"Name": f"sweepstakes-{role}"}
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
    assert "AWS_" not in yaml.safe_dump(config)


def test_a_machine_without_an_instance_type_is_an_error() -> None:
    head = {"cpus": 2, "memory_gb": 4, "price_per_hour": 0.1}
    with pytest.raises(ProfileError, match=r"^head: has no `instance_type`"):
        cluster_of(shipped_profiles.load_profile(shipped_profiles.AWS, head=head))


def test_a_mount_that_is_not_an_nfs_export_is_an_error() -> None:
    mounts = [{"path": "/data", "source": "vlt-data"}]
    with pytest.raises(ProfileError, match=r"^mounts\[0\]\.source = 'vlt-data'"):
        cluster_of(shipped_profiles.load_profile(shipped_profiles.AWS, mounts=mounts))


def test_the_head_may_start_and_terminate_its_own_workers_only() -> None:
    profile = shipped_profiles.load_profile(shipped_profiles.AWS)
    assert profile.aws
    rules = {rule["Sid"]: rule for rule in aws.head_policy(profile, profile.aws)["Statement"]}
    tag = f"aws:ResourceTag/{aws.CLUSTER_TAG}"
    assert rules["TagAndTerminateClusterInstances"]["Condition"]["StringEquals"] == {
        tag: "sweepstakes"
    }
    assert rules["PassWorkerRole"]["Resource"].endswith(":role/sweepstakes-worker")
    unrestricted = [name for name, rule in rules.items() if rule["Resource"] == "*"]
    assert unrestricted == ["DescribeInstances"]
    actions = rules["DescribeInstances"]["Action"]
    assert all(action.startswith("ec2:Describe") for action in actions)


@dataclass(frozen=True, slots=True)
class Cloud:
    """A moto account with the resources that the profile names."""

    endpoint: str
    profile: Profile

    def machines(self) -> list[dict[str, Any]]:
        reply = moto_process.boto_client(self.endpoint, "ec2").describe_instances()
        return [machine for group in reply["Reservations"] for machine in group["Instances"]]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with moto_process.moto_server() as endpoint:
        ec2 = moto_process.boto_client(endpoint, "ec2")
        subnet = ec2.describe_subnets()["Subnets"][0]
        group = ec2.create_security_group(
            GroupName="ours", Description="ours", VpcId=subnet["VpcId"]
        )
        iam = moto_process.boto_client(endpoint, "iam")
        for name in ("sweepstakes-head", "sweepstakes-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        section = shipped_profiles.profile_document(shipped_profiles.AWS)["aws"] | {
            "region": moto_process.REGION,
            "image_id": ec2.describe_images()["Images"][0]["ImageId"],
            "subnets": [subnet["SubnetId"]],
            "security_groups": [group["GroupId"]],
        }
        yield Cloud(endpoint, shipped_profiles.load_profile(shipped_profiles.AWS, aws=section))


@pytest.fixture
def account(cloud: Cloud, tmp_path: Path) -> dict[str, str]:
    """Environment of a user of that account, with a separate home and a fake ssh."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("token-of-the-test")
    for name in ("ssh", "rsync"):
        (tmp_path / name).write_text(SSH)
        (tmp_path / name).chmod(0o755)
    return {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "AWS_ENDPOINT_URL": cloud.endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "RAY_UP_enable_autoscaler_v2": "1",
    }


@pytest.mark.slow
def test_ray_up_starts_a_head_and_ray_on_it(
    cloud: Cloud, account: dict[str, str], tmp_path: Path
) -> None:
    assert cloud.profile.aws
    path = tmp_path / "cluster.yaml"
    path.write_text(aws.render(cloud.profile, cloud.profile.aws)["cluster.yaml"])
    ray = [sys.executable, "-m", "ray.scripts.scripts", "up", str(path), "--yes"]
    result = subprocess.run(
        [*ray, "--no-config-cache"], env=account, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (head,) = cloud.machines()
    assert head["InstanceType"] == "m7i.2xlarge"
    assert head["IamInstanceProfile"]["Arn"].endswith("/sweepstakes-head")
    assert {tag["Key"]: tag["Value"] for tag in head["Tags"]}[aws.CLUSTER_TAG] == "sweepstakes"
    notes = (tmp_path / "notes").read_text()
    assert "sudo mount -t nfs4 -o ro" in notes
    (run,) = (line for line in notes.splitlines() if "docker run" in line)
    for part in ("--env=RAY_AUTH_MODE=token", "/data:/data:ro", "--runtime=nvidia", "auth_token"):
        assert part in run
    assert "ray start --head --num-cpus=0" in notes
    assert "--dashboard-host=127.0.0.1" in notes
    assert "token-of-the-test" not in notes + result.stdout + result.stderr


@pytest.mark.slow
def test_the_autoscaler_s_provider_starts_spot_and_on_demand_machines(
    cloud: Cloud, account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, account[name])
    config = prepare_config(cluster_of(cloud.profile))
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    before = {machine["InstanceId"] for machine in cloud.machines()}
    for name in ("spot", "on-demand"):
        node = config["available_node_types"][name]["node_config"]
        provider.create_node(node, {"ray-user-node-type": name}, 1)
    started = [machine for machine in cloud.machines() if machine["InstanceId"] not in before]
    kinds = sorted(machine.get("InstanceLifecycle", "on demand") for machine in started)
    assert kinds == ["on demand", "spot"]
    assert {machine["IamInstanceProfile"]["Arn"].rpartition("/")[2] for machine in started} == {
        "sweepstakes-worker"
    }
