"""The form `aws`: a cluster of EC2 machines, made by `ray up`.

The machines reach the store by their instance profiles: no key lies on them. `ray up` copies the
token of whoever runs it, `~/.ray/auth_token`, to the nodes. The dashboard listens on the head's
127.0.0.1 alone; `ray dashboard cluster.yaml` brings it here over SSH.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.errors import ProfileError
from cluster.profile import AWS, HEAD, LAUNCHES, Machine, Mount, Profile
from cluster.providers.kuberay import pods
from cluster.submit import ENVIRONMENT

FILES = "ulimit -n 65536"
"""Ray's processes hold several open files for each other."""
CLUSTER_TAG = "ray-cluster-name"
"""By which Ray, and so `head_policy`, knows its machines."""


def render(profile: Profile, aws: AWS) -> dict[str, str]:
    """Files by name: `cluster.yaml` for `ray up`, and the policy of the head's role.

    Raises:
        ProfileError: a machine has no `instance_type`, or a mount no NFS export.
    """
    remarks = [
        f"Made from the profile {profile.name!r} with `sweepstakes cluster render`.",
        "",
        "Once: ray get-auth-token --generate, and the roles as the policies beside this file say.",
        "Then: ray up cluster.yaml; ray dashboard cluster.yaml, which brings the dashboard to",
        "http://127.0.0.1:8265, where `sweepstakes submit` looks for it; ray down cluster.yaml",
    ]
    return {
        "cluster.yaml": pods.dump([_cluster(profile, aws)], remarks),
        "head-policy.json": json.dumps(head_policy(profile, aws), indent=2) + "\n",
    }


def head_policy(profile: Profile, aws: AWS) -> dict[str, Any]:
    """What the autoscaler on the head may do: start machines that carry this cluster's name, end
    those, and give them the workers' role and no other."""
    machines = f"arn:aws:ec2:{aws.region}:*:instance/*"
    parts = ("network-interface/*", "volume/*", "key-pair/*", *(f"subnet/{s}" for s in aws.subnets))
    groups = (f"security-group/{group}" for group in aws.security_groups)
    own = {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": profile.name}}
    asked = {"StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": profile.name}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Look",
                "Effect": "Allow",
                "Action": ["ec2:DescribeInstances", "ec2:DescribeInstanceStatus"],
                "Resource": "*",  # these cannot be narrowed
            },
            {
                "Sid": "StartOurs",
                "Effect": "Allow",
                "Action": "ec2:RunInstances",
                "Resource": machines,
                "Condition": asked,
            },
            {
                "Sid": "OfTheseParts",
                "Effect": "Allow",
                "Action": "ec2:RunInstances",
                "Resource": [
                    f"arn:aws:ec2:{aws.region}::image/{aws.image_id}",
                    *(f"arn:aws:ec2:{aws.region}:*:{part}" for part in (*parts, *groups)),
                ],
            },
            {
                "Sid": "NameNew",
                "Effect": "Allow",
                "Action": "ec2:CreateTags",
                "Resource": machines,
                "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
            },
            {
                "Sid": "MarkAndEndOurs",
                "Effect": "Allow",
                "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
                "Resource": machines,
                "Condition": own,
            },
            {
                "Sid": "GiveTheWorkersRole",
                "Effect": "Allow",
                "Action": "iam:PassRole",
                "Resource": f"arn:aws:iam::*:role/{aws.worker_instance_profile}",
                "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            },
        ],
    }


def _cluster(profile: Profile, aws: AWS) -> dict[str, Any]:
    head = {
        "node_config": _node(aws, profile.head, HEAD, aws.head_instance_profile),
        "resources": {"CPU": 0},  # no trial goes where the driver and the cluster's books are
        "min_workers": 0,
        "max_workers": 0,
    }
    kinds: dict[str, Any] = {HEAD: head}
    for kind in profile.workers:
        node = _node(aws, kind, kind.name, aws.worker_instance_profile)
        if kind.spot:
            node["InstanceMarketOptions"] = {"MarketType": "spot"}
        kinds[kind.name] = {
            "node_config": node,
            "resources": {"CPU": kind.cpus, **({"GPU": kind.gpus} if kind.gpus else {})},
            "labels": kind.labels(),
            "min_workers": kind.min,
            "max_workers": kind.max,
            "priority": kind.priority,
        }
    stops = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())  # for any job
    faster = f"AUTOSCALER_MAX_CONCURRENT_LAUNCHES={LAUNCHES} AUTOSCALER_MAX_LAUNCH_BATCH={LAUNCHES}"
    return {
        "cluster_name": profile.name,
        "max_workers": sum(kind.max for kind in profile.workers),
        "upscaling_speed": profile.upscaling_speed,
        "idle_timeout_minutes": profile.idle_minutes,
        "provider": {"type": "aws", "region": aws.region, "cache_stopped_nodes": False},
        "auth": {"ssh_user": aws.ssh_user},
        "docker": _docker(profile),
        "head_node_type": HEAD,
        "available_node_types": kinds,
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "initialization_commands": [*_mounting(profile.mounts)],
        # Empty, or Ray's defaults would install another Ray into the image.
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            f"{FILES}; {stops} {faster} ray start --head --num-cpus=0 --port=6379 "
            "--dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{FILES}; ray start --address=$RAY_HEAD_IP:6379",
        ],
    }


def _node(aws: AWS, machine: Machine, name: str, instance_profile: str) -> dict[str, Any]:
    """The parameters of EC2's RunInstances, but for `SubnetIds`, of which Ray tries one by one."""
    if not machine.instance_type:
        raise ProfileError(f"{name}: has no `instance_type`; on AWS name one, such as g6.4xlarge")
    disk = {"VolumeSize": machine.disk_gb, "VolumeType": "gp3", "Encrypted": True}
    return {
        "InstanceType": machine.instance_type,
        "ImageId": aws.image_id,
        "SubnetIds": aws.subnets,
        "SecurityGroupIds": aws.security_groups,
        "IamInstanceProfile": {"Name": instance_profile},
        "BlockDeviceMappings": [{"DeviceName": aws.root_device, "Ebs": disk}],
        # A role's keys are given to programs on the machine that know how to ask, and not to a
        # request that somebody talked one of them into.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
    }


def _docker(profile: Profile) -> dict[str, Any]:
    return {
        "image": profile.image,
        "container_name": "sweepstakes",
        "pull_before_run": True,
        "run_options": [
            "--env=RAY_AUTH_MODE=token",
            # By these NVIDIA's runtime knows which GPUs to show; only its own images set them, and
            # under Kubernetes they could show a pod more than it has.
            "--env=NVIDIA_VISIBLE_DEVICES=all",
            "--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            *(f"--volume={mount.path}:{mount.path}:ro" for mount in profile.mounts),
        ],
    }


def _mounting(mounts: list[Mount]) -> list[str]:
    """Commands for the machine itself, before its container; safe to repeat."""
    if not mounts:
        return []
    for number, mount in enumerate(mounts):
        if ":/" not in mount.source:
            raise ProfileError(
                f"mounts[{number}].source = {mount.source!r} is not allowed; on AWS name an NFS"
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
