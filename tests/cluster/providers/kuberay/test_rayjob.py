"""A sweep as a job on Kubernetes: what it finds there, what it is called, how it is run again."""

from __future__ import annotations

import re
import shlex

import yaml

from cluster.providers.kuberay import manifests as kuberay
from cluster.providers.kuberay import rayjob
from cluster.submit import ENVIRONMENT
from tests.support import cluster_profiles as profiles
from tests.support.manifests import SWEEP, rendered, the


def test_a_job_finds_the_sweep_and_what_lies_beside_it() -> None:
    files = {"study.yaml": "name: study\n", "configs/clusters/mine.yaml": "name: mine\n"}
    sweep = rayjob.Sweep(name="study", files=files, path="study.yaml", variables={"A": "1"})
    found = rendered(profiles.profile(profiles.KUBERAY), sweep)
    job = the(found, "RayJob")["spec"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (one["configMap"] for one in head["volumes"] if "configMap" in one)
    config = the(found, "ConfigMap")
    assert volume["name"] == config["metadata"]["name"]
    mounted = {item["path"]: config["data"][item["key"]] for item in volume["items"]}
    assert mounted == files
    (place,) = (
        one["mountPath"] for one in head["containers"][0]["volumeMounts"] if one["name"] == "sweep"
    )
    shell, option, script = shlex.split(job["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    assert script == f"cd {place} && exec sweepstakes run study.yaml"
    variables = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert variables == {"A": "1", **ENVIRONMENT}


def test_names_fit_kuberay_s_limit_and_are_told_apart() -> None:
    long = "long" * 15
    sweeps = ("plain", "q-a", "q_a", "q-", "q_", f"{long}-a", f"{long}-b")
    names = [rayjob.name_of(sweep) for sweep in sweeps]
    assert names[:2] == ["sweep-plain", "sweep-q-a"]
    assert len(set(names)) == len(sweeps)
    for name in names:
        assert re.fullmatch(r"[a-z0-9-]{1,46}[a-z0-9]", name)


def test_how_to_run_a_job_again_stands_beside_it() -> None:
    profile = profiles.profile(profiles.KUBERAY)
    assert profile.kubernetes
    job = kuberay.render(profile, profile.kubernetes, SWEEP)["2-job.yaml"]
    name = the(rendered(profile, SWEEP), "RayJob")["metadata"]["name"]
    remarks = job.partition("\n---")[0]
    assert f"kubectl -n sweepstakes delete rayjob {name}" in remarks
