"""One sweep as a job on Kubernetes: a RayJob, whose cluster exists while the sweep runs."""

from __future__ import annotations

import hashlib
import shlex

import yaml

from cluster.profile import Kubernetes, Profile
from cluster.providers.base import SubmittedSweep
from cluster.providers.kuberay import pods
from cluster.providers.kuberay.pods import Manifest
from cluster.submit import JOB_STOP_ENVIRONMENT

BACKOFF_LIMIT = 1
"""The job fails if the head node is lost. One retry creates a new cluster and does not repeat
committed trials. More retries would also repeat permanent errors: an invalid sweep (exit code 2) or
failing trials (1)."""
TTL_AFTER_FINISHED_S = 600
"""Time after which the cluster of a finished job is deleted; until then its dashboard is available.
"""
SWEEP_FOLDER = "/home/ray/sweep"
MAX_NAME_LENGTH = 47
"""KubeRay's limit of the length of a RayJob's name."""


def job_name(sweep: str) -> str:
    """Return the job's name. If the sweep's name must be changed, a hash makes it unique."""
    plain = f"sweep-{sweep}"
    if len(plain) <= MAX_NAME_LENGTH and "_" not in plain and not plain.endswith("-"):
        return plain
    suffix = f"-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"
    return plain.replace("_", "-")[: MAX_NAME_LENGTH - len(suffix)].rstrip("-") + suffix


def delete_command(kubernetes: Kubernetes, sweep: SubmittedSweep) -> str:
    """Return the command after which `kubectl apply` starts the job again; it does not restart a
    finished job whose manifest has not changed."""
    return f"kubectl -n {kubernetes.namespace} delete rayjob {job_name(sweep.name)}"


def job_objects(
    profile: Profile, kubernetes: Kubernetes, sweep: SubmittedSweep, cluster: Manifest
) -> list[Manifest]:
    """Return the ConfigMap of the sweep's files, and its job on a cluster with the RayClusterSpec
    `cluster`."""
    name = job_name(sweep.name)
    keys = {path: f"file-{number}" for number, path in enumerate(sorted(sweep.files))}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.object_metadata(profile, name, "ray"),
        "data": {key: sweep.files[path] for path, key in keys.items()},
    }
    head = cluster["headGroupSpec"]["template"]["spec"]
    items = [{"key": key, "path": path} for path, key in keys.items()]
    head["volumes"].append({"name": "sweep", "configMap": {"name": name, "items": items}})
    head["containers"][0]["volumeMounts"].append(
        {"name": "sweep", "mountPath": SWEEP_FOLDER, "readOnly": True}
    )
    command = f"cd {SWEEP_FOLDER} && exec sweepstakes run {shlex.quote(sweep.path)}"
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": pods.object_metadata(profile, name, "ray"),
        "spec": {
            "entrypoint": f"bash -c {shlex.quote(command)}",
            "runtimeEnvYAML": yaml.safe_dump(
                {"env_vars": {**sweep.variables, **JOB_STOP_ENVIRONMENT}}
            ),
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(profile),
            "backoffLimit": BACKOFF_LIMIT,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": TTL_AFTER_FINISHED_S,
            "rayClusterSpec": cluster,
        },
    }
    return [config, job]


def _submitter(profile: Profile) -> Manifest:
    """Return the pod that submits the job to the cluster and prints its output."""
    return {
        "metadata": {"labels": pods.component_labels(profile, "submitter")},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": pods.pod_security_context(),
            "containers": [
                {
                    "name": "ray-job-submitter",
                    "image": profile.image,
                    "resources": pods.equal_resources(cpu="500m", memory="1Gi"),
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                }
            ],
        },
    }
