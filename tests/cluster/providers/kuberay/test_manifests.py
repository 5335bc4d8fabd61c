"""The objects for Kubernetes, checked with Kubernetes' schemas, KubeRay's fields, and Ray's
autoscaler, which reads its configuration from these objects."""

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
from tests.support import shipped_profiles
from tests.support.kuberay_api import SPECS
from tests.support.manifests import SWEEP, Manifest, find_object, render_objects
from tests.support.paths import ROOT

KUBERNETES = "1.31"


def pod_templates(node: Any) -> Iterator[Manifest]:
    """Yield every pod template at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("template", "submitterPodTemplate"):
                yield value
            yield from pod_templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from pod_templates(value)


@pytest.fixture(params=["cluster", "job"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    sweep = SWEEP if request.param == "job" else None
    return render_objects(shipped_profiles.load_profile(shipped_profiles.KUBERAY), sweep)


def test_objects_match_the_schemas_of_kubernetes(objects: list[Manifest]) -> None:
    builtin = [item for item in objects if item["apiVersion"] != "ray.io/v1"]
    assert len(builtin) >= 8
    for item in builtin:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_ray_s_objects_have_only_fields_of_kuberay(objects: list[Manifest]) -> None:
    (ray,) = (item for item in objects if item["apiVersion"] == "ray.io/v1")
    SPECS[ray["kind"]].model_validate(ray["spec"])
    for number, template in enumerate(pod_templates(ray["spec"])):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}}
        kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


def test_every_pod_has_limits_and_does_not_run_as_root(objects: list[Manifest]) -> None:
    for template in pod_templates(objects):
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            limits, requests = (dict(container["resources"][key]) for key in ("limits", "requests"))
            for amounts in (limits, requests):
                amounts.pop("ephemeral-storage", None)
            assert limits == requests
            assert {"cpu", "memory"} <= limits.keys()
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_passwords_and_keys_come_from_kubernetes_secrets(objects: list[Manifest]) -> None:
    """Variables named like secrets have no literal value, and commands do not contain secrets."""
    for template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if any(part in variable["name"] for part in ("KEY", "PASSWORD", "TOKEN")):
                    assert "secretKeyRef" in variable["valueFrom"]
                    assert "value" not in variable
            assert "password" not in " ".join(container.get("command", []))
    assert not [item for item in objects if item["kind"] == "Secret"]


def cluster_of(profile: Profile) -> Manifest:
    return find_object(render_objects(profile), "RayCluster")


def test_the_cluster_requires_the_token_with_and_without_a_job(objects: list[Manifest]) -> None:
    (ray,) = (item for item in objects if item["apiVersion"] == "ray.io/v1")
    spec = ray["spec"].get("rayClusterSpec", ray["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"


def test_ray_s_autoscaler_reads_the_groups_of_the_profile() -> None:
    config = _derive_autoscaling_config_from_ray_cr(
        cluster_of(shipped_profiles.load_profile(shipped_profiles.KUBERAY))
    )
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    spot, on_demand = types["spot"], types["on-demand"]
    assert (spot["resources"]["CPU"], spot["resources"]["GPU"]) == (15, 1)
    assert (spot["min_workers"], spot["max_workers"], spot["priority"]) == (0, 32, 10)
    assert spot["labels"] == {"ray.io/market-type": "spot", "ray.io/accelerator-type": "L4"}
    assert (on_demand["max_workers"], on_demand["priority"]) == (4, 0)
    assert (config["idle_timeout_minutes"], config["upscaling_speed"]) == (5.0, 1000)


def test_the_head_s_pod_has_the_resources_of_the_profile() -> None:
    """The pod has the head's container and the autoscaler, which KubeRay adds as a sidecar."""
    profile = shipped_profiles.load_profile(shipped_profiles.KUBERAY)
    spec = cluster_of(profile)["spec"]
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    both = [
        part["requests"] for part in (head["resources"], spec["autoscalerOptions"]["resources"])
    ]
    assert sum(int(requests["cpu"]) for requests in both) == profile.head.cpus
    units = {"Mi": 1, "Gi": 1024}
    amounts = [requests["memory"] for requests in both]
    memory = sum(int(amount[:-2]) * units[amount[-2:]] for amount in amounts)
    assert memory == profile.head.memory_gb * 1024


def test_a_pod_fits_on_a_node_with_a_usual_disk() -> None:
    for template in pod_templates(
        cluster_of(shipped_profiles.load_profile(shipped_profiles.KUBERAY))
    ):
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
def test_a_profile_that_does_not_fit_kubernetes_is_an_error(
    change: dict[str, Any], where: str
) -> None:
    with pytest.raises(ProfileError, match=re.escape(where)):
        render_objects(shipped_profiles.load_profile(shipped_profiles.KUBERAY, **change))


def test_a_low_upscaling_speed_is_conservative() -> None:
    slow = shipped_profiles.load_profile(shipped_profiles.KUBERAY, upscaling_speed=1)
    assert _derive_autoscaling_config_from_ray_cr(cluster_of(slow))["upscaling_speed"] == 1


@pytest.mark.parametrize(
    ("availability", "launched"),
    [({}, {"spot": 32, "on-demand": 4}), ({"spot": 0.0}, {"on-demand": 4, "spot": 32})],
    ids=["spot is preferred", "on demand if spot is not available"],
)
def test_ray_s_scheduler_starts_all_nodes_for_waiting_trials(
    availability: dict[str, float], launched: dict[str, int]
) -> None:
    """There are 100 trials with a GPU each. A single trial shows which group is preferred."""
    config = AutoscalingConfig(
        _derive_autoscaling_config_from_ray_cr(
            cluster_of(shipped_profiles.load_profile(shipped_profiles.KUBERAY))
        ),
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
        order += [launch.instance_type for launch in reply.to_launch if trials == 1]
    assert order == [next(iter(launched))]
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == launched


def reaches(objects: list[Manifest], source: Manifest, target: Manifest, port: int) -> bool:
    """Return whether the policies allow pods with labels `source` to connect to `target`."""
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]
    applied = [policy for policy in policies if matches(policy["podSelector"], target)]
    return not applied or any(
        any("podSelector" in peer and matches(peer["podSelector"], source) for peer in rule["from"])
        and port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]
        for policy in applied
        for rule in policy["ingress"]
    )


def matches(selector: Manifest, labels: Manifest) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


def test_network_policies_allow_only_the_needed_connections() -> None:
    objects = render_objects(shipped_profiles.load_profile(shipped_profiles.KUBERAY), SWEEP)
    job = find_object(objects, "RayJob")["spec"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    worker = job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    submitter = job["submitterPodTemplate"]["metadata"]["labels"]
    mlflow = find_object(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    postgres = find_object(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    other = {"app": "anything"}
    assert reaches(objects, worker, head, 6379)
    assert reaches(objects, head, worker, 40000)
    assert reaches(objects, submitter, head, 8265)
    assert not reaches(objects, submitter, head, 6379)
    assert reaches(objects, worker, mlflow, 5000)
    assert reaches(objects, mlflow, postgres, 5432)
    assert not reaches(objects, worker, postgres, 5432)
    for target, port in ((head, 8265), (head, 6379), (mlflow, 5000), (postgres, 5432)):
        assert not reaches(objects, other, target, port)


def test_prometheus_has_access_if_its_namespace_is_configured() -> None:
    section = shipped_profiles.profile_document(shipped_profiles.KUBERAY)["kubernetes"] | {
        "monitoring_namespace": "prom"
    }
    objects = render_objects(
        shipped_profiles.load_profile(shipped_profiles.KUBERAY, kubernetes=section)
    )
    (rule,) = (
        rule
        for item in objects
        if item["kind"] == "NetworkPolicy"
        for rule in item["spec"]["ingress"]
        if "'prom'" in str(rule["from"])
    )
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]


def test_services_select_their_pods() -> None:
    objects = render_objects(shipped_profiles.load_profile(shipped_profiles.KUBERAY))
    services = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Service"}
    for workload in (find_object(objects, "Deployment"), find_object(objects, "StatefulSet")):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        selector = services[workload["metadata"]["name"]]["spec"]["selector"]
        assert matches({"matchLabels": selector}, labels)
        assert workload["spec"]["selector"]["matchLabels"] == labels


def test_mlflow_accepts_only_its_own_host_names() -> None:
    profile = shipped_profiles.load_profile(shipped_profiles.KUBERAY)
    container = find_object(render_objects(profile), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ][0]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    allowed = variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    address = mlflow_server.tracking_uri(profile).removeprefix("http://")
    assert is_allowed_host_header(allowed, address)
    assert is_allowed_host_header(allowed, "localhost:5000")
    for foreign in ("evil.example", "evil.example:5000", f"{address}.evil.example"):
        assert not is_allowed_host_header(allowed, foreign)


def test_mlflow_uses_the_postgres_driver_of_the_image() -> None:
    profile = shipped_profiles.load_profile(shipped_profiles.KUBERAY)
    container = find_object(render_objects(profile), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ][0]
    (address,) = (
        option.partition("=")[2]
        for option in container["command"]
        if option.startswith("--backend")
    )
    url = make_url(address)
    assert url.password is None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (driver,) = project["optional-dependencies"]["cluster"]
    assert driver.startswith(f"{url.get_driver_name()}-binary")


def test_no_mlflow_is_rendered_if_it_is_null() -> None:
    section = shipped_profiles.profile_document(shipped_profiles.KUBERAY)["kubernetes"] | {
        "mlflow": None
    }
    objects = render_objects(
        shipped_profiles.load_profile(shipped_profiles.KUBERAY, kubernetes=section)
    )
    assert {item["kind"] for item in objects} == {"Namespace", "NetworkPolicy", "RayCluster"}


def test_spot_workers_select_and_tolerate_spot_nodes() -> None:
    spec = cluster_of(shipped_profiles.load_profile(shipped_profiles.KUBERAY))["spec"]
    spot, on_demand = (group["template"]["spec"] for group in spec["workerGroupSpecs"])
    market = "karpenter.sh/capacity-type"
    assert (spot["nodeSelector"][market], on_demand["nodeSelector"][market]) == (
        "spot",
        "on-demand",
    )
    assert market in [toleration["key"] for toleration in spot["tolerations"]]
    assert market not in [toleration["key"] for toleration in on_demand["tolerations"]]
    head = spec["headGroupSpec"]["template"]["spec"]
    assert head["nodeSelector"][market] == "on-demand"
