"""What is rendered for Kubernetes, held against Kubernetes' schemas, KubeRay's fields, and Ray's
own autoscaler, which reads its cluster from these very objects."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from mlflow.server.security_utils import is_allowed_host_header
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from sqlalchemy.engine import make_url

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers.kuberay import mlflow_server
from tests.support import cluster_profiles as profiles
from tests.support.kuberay_api import SPECS
from tests.support.manifests import SWEEP, Manifest, rendered, the
from tests.support.paths import ROOT

KUBERNETES = "1.31"


def pod_templates(found: Any) -> Iterator[Manifest]:
    """Every pod template, wherever it lies."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key in ("template", "submitterPodTemplate"):
                yield value
            yield from pod_templates(value)
    elif isinstance(found, list):
        for value in found:
            yield from pod_templates(value)


@pytest.fixture(params=["cluster", "job"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    sweep = SWEEP if request.param == "job" else None
    return rendered(profiles.profile(profiles.KUBERAY), sweep)


def test_kubernetes_own_schemas_hold(objects: list[Manifest]) -> None:
    own = [one for one in objects if one["apiVersion"] != "ray.io/v1"]
    assert len(own) >= 8
    for one in own:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_ray_s_objects_have_no_field_that_kuberay_does_not_know(objects: list[Manifest]) -> None:
    (ray,) = (one for one in objects if one["apiVersion"] == "ray.io/v1")
    SPECS[ray["kind"]].model_validate(ray["spec"])
    for number, template in enumerate(pod_templates(ray["spec"])):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}}
        kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


def test_every_pod_is_limited_and_nobody_is_root(objects: list[Manifest]) -> None:
    for template in pod_templates(objects):
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            limits, requests = (dict(container["resources"][key]) for key in ("limits", "requests"))
            for one in (limits, requests):
                one.pop("ephemeral-storage", None)
            assert limits == requests
            assert {"cpu", "memory"} <= limits.keys()
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_secrets_come_from_secrets(objects: list[Manifest]) -> None:
    """What is named like one has no value of its own, and none stands on a command line."""
    for template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("KEY", "PASSWORD", "TOKEN")):
                    assert "secretKeyRef" in variable["valueFrom"]
                    assert "value" not in variable
            assert "password" not in " ".join(container.get("command", []))
    assert not [one for one in objects if one["kind"] == "Secret"]


def cluster_of(profile: Profile) -> Manifest:
    return the(rendered(profile), "RayCluster")


def test_the_token_is_asked_for_with_and_without_a_job(objects: list[Manifest]) -> None:
    (ray,) = (one for one in objects if one["apiVersion"] == "ray.io/v1")
    spec = ray["spec"].get("rayClusterSpec", ray["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"


def test_ray_s_autoscaler_reads_the_groups_as_the_profile_means_them() -> None:
    read = _derive_autoscaling_config_from_ray_cr(cluster_of(profiles.profile(profiles.KUBERAY)))
    kinds = read["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    spot, on_demand = kinds["spot"], kinds["on-demand"]
    assert (spot["resources"]["CPU"], spot["resources"]["GPU"]) == (15, 1)
    assert (spot["min_workers"], spot["max_workers"], spot["priority"]) == (0, 32, 10)
    assert spot["labels"] == {"ray.io/market-type": "spot", "ray.io/accelerator-type": "L4"}
    assert (on_demand["max_workers"], on_demand["priority"]) == (4, 0)
    assert (read["idle_timeout_minutes"], read["upscaling_speed"]) == (5.0, 1000)


def test_the_profile_s_numbers_are_those_of_whole_pods() -> None:
    """The head's is its own container and the autoscaler, which KubeRay puts beside it."""
    profile = profiles.profile(profiles.KUBERAY)
    spec = cluster_of(profile)["spec"]
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    both = [one["requests"] for one in (head["resources"], spec["autoscalerOptions"]["resources"])]
    assert sum(int(one["cpu"]) for one in both) == profile.head.cpus
    units = {"Mi": 1, "Gi": 1024}
    memory = sum(int(one["memory"][:-2]) * units[one["memory"][-2:]] for one in both)
    assert memory == profile.head.memory_gb * 1024


def test_a_pod_fits_on_a_node_with_a_usual_disk() -> None:
    for template in pod_templates(cluster_of(profiles.profile(profiles.KUBERAY))):
        resources = template["spec"]["containers"][0]["resources"]
        assert int(resources["requests"]["ephemeral-storage"].removesuffix("Gi")) < 17  # of 20
        assert resources["limits"]["ephemeral-storage"] == "100Gi"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"head": {"cpus": 1, "memory_gb": 4, "price_per_hour": 1}}, "head.cpus = 1"),
        ({"head": {"cpus": 2, "memory_gb": 1.0, "price_per_hour": 1}}, "head.memory_gb = 1.0"),
        ({"mounts": [{"path": "/data", "source": "host:/data"}]}, "mounts[0].source = 'host:/"),
    ],
)
def test_what_only_kubernetes_minds_is_one_line(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(where)):
        rendered(profiles.profile(profiles.KUBERAY, **change))


def test_a_low_speed_is_conservative() -> None:
    slow = profiles.profile(profiles.KUBERAY, upscaling_speed=1)
    assert _derive_autoscaling_config_from_ray_cr(cluster_of(slow))["upscaling_speed"] == 1


@pytest.mark.parametrize(
    ("availability", "launched"),
    [({}, {"spot": 32, "on-demand": 4}), ({"spot": 0.0}, {"on-demand": 4, "spot": 32})],
    ids=["spot first", "on demand while spot cannot be had"],
)
def test_ray_s_scheduler_starts_every_node_that_waiting_trials_need(
    availability: dict[str, float], launched: dict[str, int]
) -> None:
    """100 trials with a GPU each; the order says which kind it prefers."""
    config = AutoscalingConfig(
        _derive_autoscaling_config_from_ray_cr(cluster_of(profiles.profile(profiles.KUBERAY))),
        skip_content_hash=True,
    )
    order: list[str] = []
    for trials in (1, 100):
        demand = ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make({"CPU": 1, "GPU": 1}) for _ in range(trials)]
        )
        reply = ResourceDemandScheduler(event_logger=None).schedule(
            SchedulingRequest(
                disable_launch_config_check=True,
                node_type_configs=config.get_node_type_configs(),
                max_num_nodes=config.get_max_num_nodes(),
                resource_requests=demand,
                recoverable_resource_availabilities=availability,
            )
        )
        order += [one.instance_type for one in reply.to_launch if trials == 1]
    assert order == [next(iter(launched))]
    assert {one.instance_type: one.count for one in reply.to_launch} == launched


def reaches(objects: list[Manifest], source: Manifest, target: Manifest, port: int) -> bool:
    """Whether the policies let pods labelled `source`, of the namespace, open a connection."""
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    held = [one for one in policies if matches(one["podSelector"], target)]
    return not held or any(
        any("podSelector" in peer and matches(peer["podSelector"], source) for peer in rule["from"])
        and port in [one["port"] for one in rule.get("ports", [{"port": port}])]
        for one in held
        for rule in one["ingress"]
    )


def matches(selector: Manifest, labels: Manifest) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


def test_who_can_reach_whom() -> None:
    found = rendered(profiles.profile(profiles.KUBERAY), SWEEP)
    job = the(found, "RayJob")["spec"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    worker = job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    submitter = job["submitterPodTemplate"]["metadata"]["labels"]
    mlflow = the(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    postgres = the(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    stranger = {"app": "anything"}
    assert reaches(found, worker, head, 6379)
    assert reaches(found, head, worker, 40000)
    assert reaches(found, submitter, head, 8265)
    assert not reaches(found, submitter, head, 6379)
    assert reaches(found, worker, mlflow, 5000)
    assert reaches(found, mlflow, postgres, 5432)
    assert not reaches(found, worker, postgres, 5432)
    for target, port in ((head, 8265), (head, 6379), (mlflow, 5000), (postgres, 5432)):
        assert not reaches(found, stranger, target, port)


def test_prometheus_is_let_in_where_it_is_named() -> None:
    section = profiles.document(profiles.KUBERAY)["kubernetes"] | {"monitoring_namespace": "prom"}
    found = rendered(profiles.profile(profiles.KUBERAY, kubernetes=section))
    (rule,) = (
        rule
        for one in found
        if one["kind"] == "NetworkPolicy"
        for rule in one["spec"]["ingress"]
        if "'prom'" in str(rule["from"])
    )
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]


def test_services_lead_to_the_pods_they_name() -> None:
    found = rendered(profiles.profile(profiles.KUBERAY))
    services = {one["metadata"]["name"]: one for one in found if one["kind"] == "Service"}
    for workload in (the(found, "Deployment"), the(found, "StatefulSet")):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        selector = services[workload["metadata"]["name"]]["spec"]["selector"]
        assert matches({"matchLabels": selector}, labels)
        assert workload["spec"]["selector"]["matchLabels"] == labels


def test_mlflow_answers_to_its_own_names_only() -> None:
    profile = profiles.profile(profiles.KUBERAY)
    container = the(rendered(profile), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    allowed = variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    address = mlflow_server.address(profile).removeprefix("http://")
    assert is_allowed_host_header(allowed, address)
    assert is_allowed_host_header(allowed, "localhost:5000")
    for foreign in ("evil.example", "evil.example:5000", f"{address}.evil.example"):
        assert not is_allowed_host_header(allowed, foreign)


def test_mlflow_reaches_postgres_by_the_driver_that_the_image_has() -> None:
    profile = profiles.profile(profiles.KUBERAY)
    container = the(rendered(profile), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (address,) = (
        word.partition("=")[2] for word in container["command"] if word.startswith("--backend")
    )
    url = make_url(address)
    assert url.password is None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (driver,) = project["optional-dependencies"]["cluster"]
    assert driver.startswith(f"{url.get_driver_name()}-binary")


def test_no_mlflow_where_there_is_one_already() -> None:
    section = profiles.document(profiles.KUBERAY)["kubernetes"] | {"mlflow": None}
    found = rendered(profiles.profile(profiles.KUBERAY, kubernetes=section))
    assert {one["kind"] for one in found} == {"Namespace", "NetworkPolicy", "RayCluster"}


def test_spot_nodes_are_asked_for_and_tolerated() -> None:
    spec = cluster_of(profiles.profile(profiles.KUBERAY))["spec"]
    spot, on_demand = (group["template"]["spec"] for group in spec["workerGroupSpecs"])
    market = "karpenter.sh/capacity-type"
    assert (spot["nodeSelector"][market], on_demand["nodeSelector"][market]) == (
        "spot",
        "on-demand",
    )
    assert market in [one["key"] for one in spot["tolerations"]]
    assert market not in [one["key"] for one in on_demand["tolerations"]]
    head = spec["headGroupSpec"]["template"]["spec"]
    assert head["nodeSelector"][market] == "on-demand"
