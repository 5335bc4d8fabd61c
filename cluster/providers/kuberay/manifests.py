"""The provider `kuberay`: a cluster, or one sweep as a job with its own cluster, on Kubernetes.

It needs KubeRay 1.7, which introduced the `priority` of worker groups; token authentication exists
since 1.5.1. The rendered files contain no secrets. The comment in `0-namespace.yaml` lists the
commands that create them.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from cluster.errors import ProfileError
from cluster.profile import MAX_CONCURRENT_LAUNCHES, Kubernetes, Machine, Profile, WorkerGroup
from cluster.providers.base import Provider, SubmittedSweep
from cluster.providers.kuberay import mlflow_server, pods, rayjob
from cluster.providers.kuberay.pods import Manifest
from cluster.submit import JOB_STOP_ENVIRONMENT

DASHBOARD_PORT = 8265
METRICS_PORT = 8080
"""The port on which every node of KubeRay serves its metrics to Prometheus."""
TERMINATION_GRACE_S = int(JOB_STOP_ENVIRONMENT["RAY_JOB_STOP_WAIT_TIME_S"])
"""Time between SIGTERM and SIGKILL, in which trials save a checkpoint at their next step."""
POD_PENDING_TIMEOUT_S = 900
"""Time after which a pod that does not run is given up; its group then counts as unavailable for
ten minutes. It must be long enough to boot a node and pull the image. Ray's default is an hour."""
SIDECAR_CPUS = SIDECAR_GB = 1
"""Resources of the autoscaler in the head's pod, twice KubeRay's default."""
DISK_REQUEST_GB = 10
"""Disk that a pod requests, not counting the image. With the system it fits on the usual smallest
disk, 20 GiB. The limit is `disk_gb`."""
_CLAIM_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def render(
    profile: Profile, kubernetes: Kubernetes, sweep: SubmittedSweep | None
) -> dict[str, str]:
    """Render the files for `kubectl apply -f FOLDER`, by name. With a sweep, the cluster exists
    while the sweep runs.

    Raises:
        ProfileError: the profile is valid but cannot be used on Kubernetes.
    """
    _check(profile)
    origin = f"Rendered from the profile {profile.name!r} with `sweepstakes cluster render`."
    namespace = [_namespace(kubernetes), *_policies(profile, kubernetes)]
    remarks = [origin, "", *_secret_commands(kubernetes)]
    files = {"0-namespace.yaml": pods.dump_yaml(namespace, remarks)}
    if kubernetes.mlflow:
        server = mlflow_server.mlflow_objects(profile, kubernetes, kubernetes.mlflow)
        address = f"placement.tracking of sweeps: {mlflow_server.tracking_uri(profile)}"
        files["1-mlflow.yaml"] = pods.dump_yaml(server, [origin, address])
    if sweep:
        job = rayjob.job_objects(profile, kubernetes, sweep, _cluster_spec(profile, kubernetes))
        advice = "`kubectl apply` does not restart a finished job. To run it again, first:"
        remarks = [origin, "", f"{advice}  {rayjob.delete_command(kubernetes, sweep)}"]
        files["2-job.yaml"] = pods.dump_yaml(job, remarks)
    else:
        service = f"svc/{profile.name}-head-svc"
        forward = f"kubectl -n {kubernetes.namespace} port-forward {service} {DASHBOARD_PORT}"
        token = (
            f"kubectl -n {kubernetes.namespace} get secret {profile.name} "
            "-o jsonpath='{.data.auth_token}' | base64 -d"
        )
        remarks = [origin, "", f"Dashboard and job server:  {forward}", f"Token:  {token}"]
        files["2-cluster.yaml"] = pods.dump_yaml([_cluster(profile, kubernetes)], remarks)
    return files


class KubeRay(Provider):
    section = "kubernetes"

    def configured(self, profile: Profile) -> bool:
        return profile.kubernetes is not None

    def render(self, profile: Profile, sweep: SubmittedSweep | None) -> dict[str, str]:
        assert profile.kubernetes
        return render(profile, profile.kubernetes, sweep)

    def next_steps(
        self, profile: Profile, folder: Path, sweep_file: Path | None, sweep: SubmittedSweep | None
    ) -> dict[str, str]:
        assert profile.kubernetes
        namespace = folder / "0-namespace.yaml"
        steps = {
            "next": f"kubectl apply -f {namespace}, and create the secrets that it names",
            "then": f"kubectl apply -f {folder}",
        }
        if sweep:
            delete = rayjob.delete_command(profile.kubernetes, sweep)
            steps["re-run"] = f"{delete}, then apply again"
        return steps

    def tracking_uri(self, profile: Profile) -> str:
        assert profile.kubernetes
        return mlflow_server.tracking_uri(profile) if profile.kubernetes.mlflow else ""


def _check(profile: Profile) -> None:
    head = profile.head
    for key, value, minimum in (
        ("cpus", head.cpus, SIDECAR_CPUS + 1),
        ("memory_gb", head.memory_gb, SIDECAR_GB + 1),
    ):
        if value < minimum:
            raise ProfileError(
                f"head.{key} = {value} is not allowed; use {minimum} or more: the autoscaler in the"
                " head's pod takes 1 of it"
            )
    for number, mount in enumerate(profile.mounts):
        if not _CLAIM_NAME.fullmatch(mount.source):
            raise ProfileError(
                f"mounts[{number}].source = {mount.source!r} is not allowed; use the name of a"
                " PersistentVolumeClaim, of a-z, 0-9, '-' and '.'"
            )


def _secret_commands(kubernetes: Kubernetes) -> list[str]:
    """Return the commands that create the required secrets."""
    create = f"kubectl -n {kubernetes.namespace} create secret generic"
    lines = []
    if kubernetes.mlflow:
        password = '--from-literal=password="$(openssl rand -hex 24)"'
        lines.append(f"{create} {kubernetes.mlflow.secret} {password}")
    if kubernetes.store_secret:
        lines.append(f"{create} {kubernetes.store_secret} --from-env-file=FILE")
        lines.append("  FILE has the lines AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…")
    heading = "Apply this file first, then create the required secrets in its namespace:"
    return [heading, *lines] if lines else []


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
    dashboard = [operator, *pods.pod_peers(profile, "submitter")]
    rules: list[Manifest] = [
        {"from": pods.pod_peers(profile, "ray")},
        {"from": dashboard, "ports": pods.tcp_port(DASHBOARD_PORT)},
    ]
    if kubernetes.monitoring_namespace:
        monitoring = [_namespaced(kubernetes.monitoring_namespace)]
        rules.append({"from": monitoring, "ports": pods.tcp_port(METRICS_PORT)})
    return [pods.network_policy(profile, "ray", f"{profile.name}-ray", rules)]


def _namespaced(name: str) -> Manifest:
    """Return all pods of a namespace, as a peer of a network policy rule."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _cluster(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": pods.object_metadata(profile, profile.name, "ray"),
        "spec": _cluster_spec(profile, kubernetes),
    }


def _cluster_spec(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    aggressive = profile.upscaling_speed > 1
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Aggressive" if aggressive else "Conservative",
            "idleTimeoutSeconds": round(profile.idle_minutes * 60),
            "env": pods.plain_variables(
                {
                    "AUTOSCALER_MAX_CONCURRENT_LAUNCHES": str(MAX_CONCURRENT_LAUNCHES),
                    "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(
                        POD_PENDING_TIMEOUT_S
                    ),
                }
            ),
            "resources": pods.equal_resources(cpu=str(SIDECAR_CPUS), memory=f"{SIDECAR_GB}Gi"),
            "securityContext": dict(pods.CONTAINER_SECURITY),
        },
        "headGroupSpec": _head(profile, kubernetes),
        "workerGroupSpecs": [_group(profile, kubernetes, group) for group in profile.workers],
    }


def _head(profile: Profile, kubernetes: Kubernetes) -> Manifest:
    head = profile.head
    remaining = {"cpus": head.cpus - SIDECAR_CPUS, "memory_gb": head.memory_gb - SIDECAR_GB}
    template = _template(profile, kubernetes, head.model_copy(update=remaining))
    container = template["spec"]["containers"][0]
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": DASHBOARD_PORT},
        {"name": "client", "containerPort": 10001},
    ]
    template["spec"]["nodeSelector"] |= kubernetes.on_demand_labels
    return {
        # No trials on the node of the driver and the GCS. The dashboard listens on all interfaces
        # for its Service; the token and the network policy protect it.
        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
        "template": template,
    }


def _group(profile: Profile, kubernetes: Kubernetes, group: WorkerGroup) -> Manifest:
    template = _template(profile, kubernetes, group, gpus=group.gpus)
    # Only the head needs a token of the Kubernetes API, for its autoscaler.
    template["spec"]["automountServiceAccountToken"] = False
    selector = kubernetes.spot_labels if group.spot else kubernetes.on_demand_labels
    template["spec"]["nodeSelector"] |= selector
    taints = kubernetes.spot_labels if group.spot else {}
    tolerations = [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for key, value in taints.items()
    ]
    if group.gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    template["spec"]["tolerations"] = tolerations
    return {
        "groupName": group.name,
        "replicas": group.min,
        "minReplicas": group.min,
        "maxReplicas": group.max,
        "priority": group.priority,
        "labels": group.labels(),
        "rayStartParams": {},
        "template": template,
    }


def _template(
    profile: Profile, kubernetes: Kubernetes, machine: Machine, *, gpus: int = 0
) -> Manifest:
    memory = round(machine.memory_gb * 1024)
    amounts = {"cpu": str(machine.cpus), "memory": f"{memory}Mi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    resources = pods.equal_resources(**amounts)
    resources["requests"]["ephemeral-storage"] = f"{min(machine.disk_gb, DISK_REQUEST_GB)}Gi"
    resources["limits"]["ephemeral-storage"] = f"{machine.disk_gb}Gi"
    credentials = [
        pods.secret_variable(key, name=kubernetes.store_secret, key=key)
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
    # Ray's object store takes 30 % of the memory.
    shared_memory = {"medium": "Memory", "sizeLimit": f"{memory * 3 // 10}Mi"}
    account = kubernetes.service_account
    selector = {"node.kubernetes.io/instance-type": machine.instance_type}
    return {
        "metadata": {"labels": pods.component_labels(profile, "ray")},
        "spec": {
            **({"serviceAccountName": account} if account else {}),
            "restartPolicy": "Never",  # the autoscaler replaces pods instead of restarting them
            "terminationGracePeriodSeconds": TERMINATION_GRACE_S,
            "securityContext": pods.pod_security_context(),
            "nodeSelector": selector if machine.instance_type else {},
            "containers": [
                {
                    "name": "ray",
                    "image": profile.image,
                    # The stop settings are also here for jobs that are submitted without them.
                    "env": [*credentials, *pods.plain_variables(JOB_STOP_ENVIRONMENT)],
                    "resources": resources,
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],
                }
            ],
            "volumes": [{"name": "shm", "emptyDir": shared_memory}, *claims],
        },
    }
