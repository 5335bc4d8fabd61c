"""The form `kuberay`: a cluster, or one sweep as a job with a cluster of its own, on Kubernetes.

For KubeRay 1.7 or newer: worker groups have had a `priority` since then, and token authentication
since 1.5.1. What is rendered holds no secret; `SECRETS` says which ones have to be there.
"""

from __future__ import annotations

import re
from importlib.metadata import version

from cluster.errors import ProfileError
from cluster.profile import LAUNCHES, Kubernetes, Machine, Profile, Workers
from cluster.providers.kuberay import mlflow_server, pods, rayjob
from cluster.providers.kuberay.pods import Manifest
from cluster.providers.kuberay.rayjob import Sweep
from cluster.submit import ENVIRONMENT

DASHBOARD = 8265
METRICS = 8080
"""Of every node, for Prometheus; KubeRay's own choice."""
GRACE_S = int(ENVIRONMENT["RAY_JOB_STOP_WAIT_TIME_S"])
"""Between SIGTERM and SIGKILL: a trial saves itself at its next step."""
PENDING_S = 900
"""A pod that has not run for so long is given up, and its kind counts as not to be had for ten
minutes: by itself Ray waits an hour. Booting a node and pulling the image have to fit in."""
SIDECAR_CPUS = SIDECAR_GB = 1
"""What the autoscaler takes of the head's pod, twice KubeRay's own default."""
DISK_GB = 10
"""What a pod asks for of its node's disk (the image is not counted): it fits beside the system on
the usual smallest, 20 GiB. It may write `disk_gb`."""
CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def render(profile: Profile, kubernetes: Kubernetes, sweep: Sweep | None) -> dict[str, str]:
    """Files for `kubectl apply -f FOLDER`, by name; with a sweep the cluster lives as long as it
    runs.

    Raises:
        ProfileError: something fits into a profile and not onto Kubernetes.
    """
    _check(profile)
    made = (f"Made from the profile {profile.name!r} with `sweepstakes cluster render`.",)
    first = [_namespace(kubernetes), *_policies(profile, kubernetes)]
    files = {"0-namespace.yaml": pods.dump(first, [*made, "", *_secrets(kubernetes)])}
    if kubernetes.mlflow:
        server = mlflow_server.objects(profile, kubernetes, kubernetes.mlflow)
        address = f"placement.tracking of the sweeps: {mlflow_server.address(profile)}"
        files["1-mlflow.yaml"] = pods.dump(server, [*made, address])
    if sweep:
        job = rayjob.objects(profile, kubernetes, sweep, _cluster_spec(profile, kubernetes))
        again = "`kubectl apply` starts no job that ended. To run it again, first:"
        remarks = [*made, "", f"{again}  {rayjob.delete(kubernetes, sweep)}"]
        files["2-job.yaml"] = pods.dump(job, remarks)
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


def _check(profile: Profile) -> None:
    head = profile.head
    for key, given, least in (
        ("cpus", head.cpus, SIDECAR_CPUS + 1),
        ("memory_gb", head.memory_gb, SIDECAR_GB + 1),
    ):
        if given < least:
            raise ProfileError(
                f"head.{key} = {given} is not allowed; use {least} or more: the autoscaler in the"
                " head's pod takes 1 of it"
            )
    for number, mount in enumerate(profile.mounts):
        if not CLAIM.fullmatch(mount.source):
            raise ProfileError(
                f"mounts[{number}].source = {mount.source!r} is not allowed; name a"
                " PersistentVolumeClaim, in a-z, 0-9, '-' and '.'"
            )


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
    first = "Apply this file first; the secrets that have to be there lie in its namespace:"
    return [first, *lines] if lines else []


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
    operator = _namespaced(kubernetes.operator_namespace)
    dashboard = [operator, *pods.ours(profile, "submitter")]
    rules: list[Manifest] = [
        {"from": pods.ours(profile, "ray")},
        {"from": dashboard, "ports": pods.port(DASHBOARD)},
    ]
    if kubernetes.monitoring_namespace:
        monitoring = [_namespaced(kubernetes.monitoring_namespace)]
        rules.append({"from": monitoring, "ports": pods.port(METRICS)})
    return [pods.policy(profile, "ray", f"{profile.name}-ray", rules)]


def _namespaced(name: str) -> Manifest:
    """All pods of a namespace, as a peer of a rule."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _cluster(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": pods.metadata(profile, profile.name, "ray"),
        "spec": _cluster_spec(profile, kubernetes),
    }


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
            "resources": pods.resources(cpu=str(SIDECAR_CPUS), memory=f"{SIDECAR_GB}Gi"),
            "securityContext": dict(pods.CONTAINER_SECURITY),
        },
        "headGroupSpec": _head(profile, kubernetes),
        "workerGroupSpecs": [_group(profile, kubernetes, kind) for kind in profile.workers],
    }


def _head(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    head = profile.head
    beside = {"cpus": head.cpus - SIDECAR_CPUS, "memory_gb": head.memory_gb - SIDECAR_GB}
    template = _template(profile, kubernetes, head.model_copy(update=beside))
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
    held = {"cpu": str(machine.cpus), "memory": f"{memory}Mi"}
    if gpus:
        held["nvidia.com/gpu"] = str(gpus)
    resources = pods.resources(**held)
    resources["requests"]["ephemeral-storage"] = f"{min(machine.disk_gb, DISK_GB)}Gi"
    resources["limits"]["ephemeral-storage"] = f"{machine.disk_gb}Gi"
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
                    "resources": resources,
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],
                }
            ],
            "volumes": [{"name": "shm", "emptyDir": shared}, *claims],
        },
    }
