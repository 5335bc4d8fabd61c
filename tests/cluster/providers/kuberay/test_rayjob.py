"""A sweep as a job on Kubernetes: its files, its name, and how to run it again."""

from __future__ import annotations

import re
import shlex

import yaml

from cluster.providers.kuberay import manifests, rayjob
from cluster.submit import JOB_STOP_ENVIRONMENT
from tests.support import shipped_profiles
from tests.support.manifests import SWEEP, find_object, render_objects


def test_a_job_has_the_files_of_the_sweep() -> None:
    files = {"study.yaml": "name: study\n", "configs/clusters/mine.yaml": "name: mine\n"}
    sweep = rayjob.SubmittedSweep(
        name="study", files=files, path="study.yaml", variables={"A": "1"}
    )
    objects = render_objects(shipped_profiles.load_profile(shipped_profiles.KUBERAY), sweep)
    job = find_object(objects, "RayJob")["spec"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (item["configMap"] for item in head["volumes"] if "configMap" in item)
    config = find_object(objects, "ConfigMap")
    assert volume["name"] == config["metadata"]["name"]
    mounted = {item["path"]: config["data"][item["key"]] for item in volume["items"]}
    assert mounted == files
    mounts = head["containers"][0]["volumeMounts"]
    (folder,) = (mount["mountPath"] for mount in mounts if mount["name"] == "sweep")
    shell, option, script = shlex.split(job["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    assert script == f"cd {folder} && exec sweepstakes run study.yaml"
    variables = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert variables == {"A": "1", **JOB_STOP_ENVIRONMENT}


def test_names_fit_kuberay_s_limit_and_are_unique() -> None:
    long = "long" * 15
    sweeps = ("plain", "q-a", "q_a", "q-", "q_", f"{long}-a", f"{long}-b")
    names = [rayjob.job_name(sweep) for sweep in sweeps]
    assert names[:2] == ["sweep-plain", "sweep-q-a"]
    assert len(set(names)) == len(sweeps)
    for name in names:
        assert re.fullmatch(r"[a-z0-9-]{1,46}[a-z0-9]", name)


def test_the_file_of_a_job_contains_the_command_to_run_it_again() -> None:
    profile = shipped_profiles.load_profile(shipped_profiles.KUBERAY)
    assert profile.kubernetes
    job = manifests.render(profile, profile.kubernetes, SWEEP)["2-job.yaml"]
    name = find_object(render_objects(profile, SWEEP), "RayJob")["metadata"]["name"]
    remarks = job.partition("\n---")[0]
    assert f"kubectl -n sweepstakes delete rayjob {name}" in remarks
