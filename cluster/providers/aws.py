"""The provider `aws`: a cluster of EC2 instances that `ray up` creates.

The instances access the store through their instance profiles; there are no keys on them. `ray up`
copies the user's token, `~/.ray/auth_token`, to the nodes. The dashboard listens on the head's
127.0.0.1 only; `ray dashboard cluster.yaml` forwards it over SSH.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.errors import ProfileError
from cluster.profile import AWS, HEAD_NODE_TYPE, MAX_CONCURRENT_LAUNCHES, Machine, Mount, Profile
from cluster.providers.base import Provider, SubmittedSweep
from cluster.providers.kuberay import pods
from cluster.submit import JOB_STOP_ENVIRONMENT

ULIMIT_COMMAND = "ulimit -n 65536"
"""Raises the limit of open files: each of Ray's processes has several of them for every other
process."""
CLUSTER_TAG = "ray-cluster-name"
"""The tag by which Ray, and so `head_policy`, identifies the cluster's instances."""


def render(profile: Profile, aws: AWS) -> dict[str, str]:
    """Render the files by name: `cluster.yaml` for `ray up`, and the policy of the head's role.

    Raises:
        ProfileError: a machine has no `instance_type`, or a mount is not an NFS export.
    """
    remarks = [
        f"Rendered from the profile {profile.name!r} with `sweepstakes cluster render`.",
        "",
        "Once: run `ray get-auth-token --generate`, and create the roles with the policies in this",
        "folder. Then: `ray up cluster.yaml`. `ray dashboard cluster.yaml` forwards the dashboard",
        "to http://127.0.0.1:8265, the default address of `sweepstakes submit`.",
        "At the end: `ray down cluster.yaml`.",
    ]
    return {
        "cluster.yaml": pods.dump_yaml([_cluster(profile, aws)], remarks),
        "head-policy.json": json.dumps(head_policy(profile, aws), indent=2) + "\n",
    }


class AmazonEC2(Provider):
    section = "aws"
    ships_store_policy = True

    def configured(self, profile: Profile) -> bool:
        return profile.aws is not None

    def render(self, profile: Profile, sweep: SubmittedSweep | None) -> dict[str, str]:
        assert profile.aws
        return render(profile, profile.aws)

    def next_steps(
        self, profile: Profile, folder: Path, sweep_file: Path | None, sweep: SubmittedSweep | None
    ) -> dict[str, str]:
        return {
            "next": f"ray up {folder / 'cluster.yaml'}",
            "then": f"sweepstakes submit {sweep_file or 'SWEEP'}",
        }


def head_policy(profile: Profile, aws: AWS) -> dict[str, Any]:
    """Return the policy of the head's role: the autoscaler may start instances with this cluster's
    tag, terminate them, and give them the workers' role and no other."""
    instances = f"arn:aws:ec2:{aws.region}:*:instance/*"
    parts = ("network-interface/*", "volume/*", "key-pair/*", *(f"subnet/{s}" for s in aws.subnets))
    groups = (f"security-group/{group}" for group in aws.security_groups)
    has_tag = {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": profile.name}}
    sets_tag = {"StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": profile.name}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "DescribeInstances",
                "Effect": "Allow",
                "Action": ["ec2:DescribeInstances", "ec2:DescribeInstanceStatus"],
                "Resource": "*",  # these actions cannot be restricted
            },
            {
                "Sid": "StartTaggedInstances",
                "Effect": "Allow",
                "Action": "ec2:RunInstances",
                "Resource": instances,
                "Condition": sets_tag,
            },
            {
                "Sid": "UseTheseResources",
                "Effect": "Allow",
                "Action": "ec2:RunInstances",
                "Resource": [
                    f"arn:aws:ec2:{aws.region}::image/{aws.image_id}",
                    *(f"arn:aws:ec2:{aws.region}:*:{part}" for part in (*parts, *groups)),
                ],
            },
            {
                "Sid": "TagNewInstances",
                "Effect": "Allow",
                "Action": "ec2:CreateTags",
                "Resource": instances,
                "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
            },
            {
                "Sid": "TagAndTerminateClusterInstances",
                "Effect": "Allow",
                "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
                "Resource": instances,
                "Condition": has_tag,
            },
            {
                "Sid": "PassWorkerRole",
                "Effect": "Allow",
                "Action": "iam:PassRole",
                "Resource": f"arn:aws:iam::*:role/{aws.worker_instance_profile}",
                "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            },
        ],
    }


def _cluster(profile: Profile, aws: AWS) -> dict[str, Any]:
    head = {
        "node_config": _node(aws, profile.head, HEAD_NODE_TYPE, aws.head_instance_profile),
        "resources": {"CPU": 0},  # no trials on the node of the driver and the GCS
        "min_workers": 0,
        "max_workers": 0,
    }
    node_types: dict[str, Any] = {HEAD_NODE_TYPE: head}
    for group in profile.workers:
        node = _node(aws, group, group.name, aws.worker_instance_profile)
        if group.spot:
            node["InstanceMarketOptions"] = {"MarketType": "spot"}
        node_types[group.name] = {
            "node_config": node,
            "resources": {"CPU": group.cpus, **({"GPU": group.gpus} if group.gpus else {})},
            "labels": group.labels(),
            "min_workers": group.min,
            "max_workers": group.max,
            "priority": group.priority,
        }
    # On the head, the settings apply to every job, also to those submitted without them.
    stop_settings = " ".join(f"{name}={value}" for name, value in JOB_STOP_ENVIRONMENT.items())
    launch_settings = (
        f"AUTOSCALER_MAX_CONCURRENT_LAUNCHES={MAX_CONCURRENT_LAUNCHES} "
        f"AUTOSCALER_MAX_LAUNCH_BATCH={MAX_CONCURRENT_LAUNCHES}"
    )
    return {
        "cluster_name": profile.name,
        "max_workers": sum(group.max for group in profile.workers),
        "upscaling_speed": profile.upscaling_speed,
        "idle_timeout_minutes": profile.idle_minutes,
        "provider": {"type": "aws", "region": aws.region, "cache_stopped_nodes": False},
        "auth": {"ssh_user": aws.ssh_user},
        "docker": _docker(profile),
        "head_node_type": HEAD_NODE_TYPE,
        "available_node_types": node_types,
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "initialization_commands": _mount_commands(profile.mounts),
        # These are empty because Ray's defaults would install another Ray into the image.
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            f"{ULIMIT_COMMAND}; {stop_settings} {launch_settings} ray start --head --num-cpus=0 "
            "--port=6379 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{ULIMIT_COMMAND}; ray start --address=$RAY_HEAD_IP:6379",
        ],
    }


def _node(aws: AWS, machine: Machine, name: str, instance_profile: str) -> dict[str, Any]:
    """Return the parameters of EC2's RunInstances, plus `SubnetIds`, which Ray tries one by one."""
    if not machine.instance_type:
        raise ProfileError(f"{name}: has no `instance_type`; AWS needs one, such as g6.4xlarge")
    disk = {"VolumeSize": machine.disk_gb, "VolumeType": "gp3", "Encrypted": True}
    return {
        "InstanceType": machine.instance_type,
        "ImageId": aws.image_id,
        "SubnetIds": aws.subnets,
        "SecurityGroupIds": aws.security_groups,
        "IamInstanceProfile": {"Name": instance_profile},
        "BlockDeviceMappings": [{"DeviceName": aws.root_device, "Ebs": disk}],
        # A program on the instance must request a session token to read the role's keys, so
        # server-side request forgery cannot read them.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
    }


def _docker(profile: Profile) -> dict[str, Any]:
    return {
        "image": profile.image,
        "container_name": "sweepstakes",
        "pull_before_run": True,
        "run_options": [
            "--env=RAY_AUTH_MODE=token",
            # NVIDIA's runtime reads from these which GPUs to expose. Only NVIDIA's images set them;
            # in our image they could expose more GPUs to a Kubernetes pod than it requests.
            "--env=NVIDIA_VISIBLE_DEVICES=all",
            "--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            *(f"--volume={mount.path}:{mount.path}:ro" for mount in profile.mounts),
        ],
    }


def _mount_commands(mounts: list[Mount]) -> list[str]:
    """Return commands for the host, before its container starts; they can be repeated."""
    if not mounts:
        return []
    for number, mount in enumerate(mounts):
        if ":/" not in mount.source:
            raise ProfileError(
                f"mounts[{number}].source = {mount.source!r} is not allowed; on AWS use an NFS"
                " export, such as fs-0123.efs.eu-west-1.amazonaws.com:/data"
            )
    client = (
        "command -v mount.nfs4 || (sudo apt-get -q update && sudo apt-get -qy install nfs-common)"
    )
    return [
        client,
        *(
            f"sudo mkdir -p {mount.path} && (mountpoint -q {mount.path} || "
            f"sudo mount -t nfs4 -o ro,hard,noresvport {mount.source} {mount.path})"
            for mount in mounts
        ),
    ]
