"""The form `kuberay`: a cluster, or one sweep as a job with a cluster of its own, on Kubernetes.

For KubeRay 1.7 or newer: worker groups have had a `priority` since then, and token authentication
since 1.5.1. What is rendered holds no secret; `SECRETS` says which ones have to be there.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import yaml

from cluster import mlflow_server, pods
from cluster.pods import Manifest
from cluster.profile import LAUNCHES, Kubernetes, Machine, Profile, Workers
from cluster.submit import ENVIRONMENT

DASHBOARD = 8265
GRACE_S = int(ENVIRONMENT["RAY_JOB_STOP_WAIT_TIME_S"])
"""Between SIGTERM and SIGKILL: a trial saves itself at its next step."""
PENDING_S = 900
"""A pod that has not run for so long is given up, and its kind counts as not to be had for ten
minutes: by itself Ray waits an hour. Booting a node and pulling the image have to fit in."""
ATTEMPTS = 3
"""A lost head node loses the job. Each further attempt makes a new cluster, and what the earlier
ones committed is not run again."""
KEPT_S = 600
"""A finished job's cluster stays so long, for a look at its dashboard."""
FOLDER = "/home/ray/sweep"
MAX_NAME = 47
"""KubeRay's limit for the name of a RayJob."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A sweep to be run as a job."""

    name: str
    files: Mapping[str, str]
    """Contents by path, relative to where the command runs: the sweep's file and those it names."""
    path: str
    """Of the sweep's own file, one of `files`."""


def render(profile: Profile, kubernetes: Kubernetes, sweep: Sweep | None) -> dict[str, str]:
    """Files for `kubectl apply -f FOLDER`, by name; with a sweep the cluster lives as long as it
    runs."""
    made = (f"Made from the profile {profile.name!r} with `sweepstakes cluster render`.",)
    first = [_namespace(kubernetes), *_policies(profile, kubernetes)]
    files = {"0-namespace.yaml": pods.dump(first, [*made, "", *_secrets(kubernetes)])}
    if kubernetes.mlflow:
        server = mlflow_server.objects(profile, kubernetes, kubernetes.mlflow)
        address = f"placement.tracking of the sweeps: {mlflow_server.address(profile)}"
        files["1-mlflow.yaml"] = pods.dump(server, [*made, address])
    if sweep:
        files["2-job.yaml"] = pods.dump(_job(profile, kubernetes, sweep), made)
    else:
        head = f"svc/{profile.name}-head-svc"
        look = f"kubectl -n {kubernetes.namespace} port-forward {head} {DASHBOARD}"
        token = (
            f"kubectl -n {kubernetes.namespace} get secret {profile.name} "
            "-o jsonpath='{.data.auth_token}' | base64 -d"
        )
        remarks = [*made, "", f"Its dashboard, and where jobs go:  {look}", f"Its token:  {token}"]
        files["2-cluster.yaml"] = pods.dump([_cluster(profile, kubernetes)], remarks)
    return files


def _secrets(kubernetes: Kubernetes) -> list[str]:
    """How to make the secrets that have to be there."""
    make = f"kubectl -n {kubernetes.namespace} create secret generic"
    lines = []
    if kubernetes.mlflow:
        drawn = '--from-literal=password="$(openssl rand -hex 24)"'
        lines.append(f"{make} {kubernetes.mlflow.secret} {drawn}")
    if kubernetes.store_secret:
        lines.append(f"{make} {kubernetes.store_secret} --from-env-file=FILE")
        lines.append("  FILE holds AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…, one a line")
    return ["Secrets that have to be there:", *lines] if lines else []


def _namespace(kubernetes: Kubernetes) -> Manifest:
    level = "pod-security.kubernetes.io"
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": kubernetes.namespace,
            "labels": {f"{level}/enforce": "baseline", f"{level}/warn": "restricted"},
        },
    }


def _policies(profile: Profile, kubernetes: Kubernetes) -> list[Manifest]:
    operator = {"kubernetes.io/metadata.name": kubernetes.operator_namespace}
    dashboard = [{"namespaceSelector": {"matchLabels": operator}}, *pods.ours(profile, "submitter")]
    rules = [
        {"from": pods.ours(profile, "ray")},
        {"from": dashboard, "ports": pods.port(DASHBOARD)},
    ]
    return [pods.policy(profile, "ray", f"{profile.name}-ray", rules)]


def _cluster(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": pods.metadata(profile, profile.name, "ray"),
        "spec": _cluster_spec(profile, kubernetes),
    }


def _job(profile: Profile, kubernetes: Kubernetes, sweep: Sweep) -> list[Manifest]:
    name = f"sweep-{sweep.name}".replace("_", "-")[:MAX_NAME].rstrip("-")
    keys = {path: f"file-{number}" for number, path in enumerate(sorted(sweep.files))}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.metadata(profile, name, "ray"),
        "data": {key: sweep.files[path] for path, key in keys.items()},
    }
    spec = _cluster_spec(profile, kubernetes)
    head = spec["headGroupSpec"]["template"]["spec"]
    items = [{"key": key, "path": path} for path, key in keys.items()]
    head["volumes"].append({"name": "sweep", "configMap": {"name": name, "items": items}})
    head["containers"][0]["volumeMounts"].append(
        {"name": "sweep", "mountPath": FOLDER, "readOnly": True}
    )
    command = f"cd {FOLDER} && exec sweepstakes run {shlex.quote(sweep.path)}"
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": pods.metadata(profile, name, "ray"),
        "spec": {
            "entrypoint": f"bash -c {shlex.quote(command)}",
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": ENVIRONMENT}),
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(profile),
            "backoffLimit": ATTEMPTS,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "rayClusterSpec": spec,
        },
    }
    return [config, job]


def _cluster_spec(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    fast = profile.upscaling_speed > 1
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Aggressive" if fast else "Conservative",
            "idleTimeoutSeconds": round(profile.idle_minutes * 60),
            "env": pods.values(
                {
                    "AUTOSCALER_MAX_CONCURRENT_LAUNCHES": str(LAUNCHES),
                    "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(PENDING_S),
                }
            ),
            "resources": pods.resources(cpu="1", memory="1Gi"),
            "securityContext": dict(pods.CONTAINER_SECURITY),
        },
        "headGroupSpec": _head(profile, kubernetes),
        "workerGroupSpecs": [_group(profile, kubernetes, kind) for kind in profile.workers],
    }


def _head(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    template = _template(profile, kubernetes, profile.head)
    container = template["spec"]["containers"][0]
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": DASHBOARD},
        {"name": "client", "containerPort": 10001},
    ]
    template["spec"]["nodeSelector"] |= kubernetes.on_demand_labels
    return {
        # No trial goes where the driver and the cluster's own books are. The dashboard listens
        # beyond its pod because its Service does; the token and the policy guard it.
        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
        "template": template,
    }


def _group(profile: Profile, kubernetes: Kubernetes, kind: Workers) -> Manifest:
    template = _template(profile, kubernetes, kind, gpus=kind.gpus)
    template["spec"]["automountServiceAccountToken"] = False  # the head's is the autoscaler's
    place = kubernetes.spot_labels if kind.spot else kubernetes.on_demand_labels
    template["spec"]["nodeSelector"] |= place
    taints = kubernetes.spot_labels if kind.spot else {}
    tolerations = [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for key, value in taints.items()
    ]
    if kind.gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    template["spec"]["tolerations"] = tolerations
    return {
        "groupName": kind.name,
        "replicas": kind.min,
        "minReplicas": kind.min,
        "maxReplicas": kind.max,
        "priority": kind.priority,
        "labels": kind.labels(),
        "rayStartParams": {},
        "template": template,
    }


def _template(
    profile: Profile, kubernetes: Kubernetes, machine: Machine, *, gpus: int = 0
) -> Manifest:
    memory = round(machine.memory_gb * 1024)
    held = {
        "cpu": str(machine.cpus),
        "memory": f"{memory}Mi",
        "ephemeral_storage": f"{machine.disk_gb}Gi",
    }
    if gpus:
        held["nvidia.com/gpu"] = str(gpus)
    credentials = [
        pods.secret(key, name=kubernetes.store_secret, key=key)
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        if kubernetes.store_secret
    ]
    mounts = [
        {"name": f"mount-{number}", "mountPath": mount.path, "readOnly": True}
        for number, mount in enumerate(profile.mounts)
    ]
    claims = [
        {
            "name": f"mount-{number}",
            "persistentVolumeClaim": {"claimName": mount.source, "readOnly": True},
        }
        for number, mount in enumerate(profile.mounts)
    ]
    shared = {"medium": "Memory", "sizeLimit": f"{memory * 3 // 10}Mi"}  # Ray's store: 30 %
    account = kubernetes.service_account
    selector = {"node.kubernetes.io/instance-type": machine.instance_type}
    return {
        "metadata": {"labels": pods.labels(profile, "ray")},
        "spec": {
            **({"serviceAccountName": account} if account else {}),
            "restartPolicy": "Never",  # the autoscaler replaces pods, it does not revive them
            "terminationGracePeriodSeconds": GRACE_S,
            "securityContext": pods.security(),
            "nodeSelector": selector if machine.instance_type else {},
            "containers": [
                {
                    "name": "ray",
                    "image": profile.image,
                    # The stop settings too, for jobs that were submitted without them.
                    "env": [*credentials, *pods.values(ENVIRONMENT)],
                    "resources": pods.resources(**held),
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],
                }
            ],
            "volumes": [{"name": "shm", "emptyDir": shared}, *claims],
        },
    }


def _submitter(profile: Profile) -> Manifest:
    """The pod that hands the job to the cluster and passes on its output."""
    return {
        "metadata": {"labels": pods.labels(profile, "submitter")},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": pods.security(),
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": profile.image,
                    "resources": pods.resources(cpu="500m", memory="1Gi"),
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                }
            ],
        },
    }
