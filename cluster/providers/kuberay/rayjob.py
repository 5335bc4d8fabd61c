"""One sweep as a job on Kubernetes: a RayJob, whose cluster lives as long as the sweep runs."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from cluster.profile import Kubernetes, Profile
from cluster.providers.kuberay import pods
from cluster.providers.kuberay.pods import Manifest
from cluster.submit import ENVIRONMENT

RETRIES = 1
"""A lost head node loses the job. One further attempt makes a new cluster, and what the first one
committed is not run again; more would also repeat what no attempt can mend, a sweep that cannot be
read (exit code 2) or trials that fail (1)."""
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
    variables: Mapping[str, str]
    """Environment variables that the paths in the file are made with; no secrets."""


def name_of(sweep: str) -> str:
    """The job's name, told from others by a hash where the sweep's own cannot be kept."""
    plain = f"sweep-{sweep}"
    if len(plain) <= MAX_NAME and "_" not in plain and not plain.endswith("-"):
        return plain
    mark = f"-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"
    return plain.replace("_", "-")[: MAX_NAME - len(mark)].rstrip("-") + mark


def delete(kubernetes: Kubernetes, sweep: Sweep) -> str:
    """The command after which `kubectl apply` starts the job again: one that ended and has not
    changed it leaves alone."""
    return f"kubectl -n {kubernetes.namespace} delete rayjob {name_of(sweep.name)}"


def objects(
    profile: Profile, kubernetes: Kubernetes, sweep: Sweep, cluster: Manifest
) -> list[Manifest]:
    """The sweep's files and its job, on a cluster of the RayClusterSpec `cluster`."""
    name = name_of(sweep.name)
    keys = {path: f"file-{number}" for number, path in enumerate(sorted(sweep.files))}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.metadata(profile, name, "ray"),
        "data": {key: sweep.files[path] for path, key in keys.items()},
    }
    head = cluster["headGroupSpec"]["template"]["spec"]
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
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": {**sweep.variables, **ENVIRONMENT}}),
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": _submitter(profile),
            "backoffLimit": RETRIES,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "rayClusterSpec": cluster,
        },
    }
    return [config, job]


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
