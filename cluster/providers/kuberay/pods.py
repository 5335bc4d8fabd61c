"""Building blocks of Kubernetes objects, as plain data: names, labels, limits, policies.

Every pod runs as a user other than root, without capabilities. Only the head, for its autoscaler,
has a token of the Kubernetes API. The limits of CPUs, memory and GPUs equal the requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import yaml

from cluster.profile import Profile

Manifest: TypeAlias = dict[str, Any]
Component: TypeAlias = Literal["ray", "submitter", "mlflow", "postgres"]

IMAGE_UID = 1000
"""The user id in `cluster/Dockerfile`."""
CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
_PART, _COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"


def component_labels(profile: Profile, component: Component) -> dict[str, str]:
    return {_PART: profile.name, _COMPONENT: component}


def object_metadata(
    profile: Profile, name: str, component: Component | None = None
) -> dict[str, str | dict[str, str]]:
    """Return the metadata of an object in the profile's namespace, with the labels of its
    component, if any."""
    metadata: dict[str, str | dict[str, str]] = {"name": name}
    if profile.kubernetes:
        metadata["namespace"] = profile.kubernetes.namespace
    return metadata | ({"labels": component_labels(profile, component)} if component else {})


def pod_security_context(user: int = IMAGE_UID) -> Manifest:
    """Return a pod's security context; volumes belong to the user's group."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def equal_resources(**amounts: str) -> Manifest:
    """Return equal requests and limits."""
    return {"requests": amounts, "limits": dict(amounts)}


def secret_variable(variable: str, *, name: str, key: str) -> Manifest:
    """Return an environment variable whose value is the entry `key` of the Secret `name`."""
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def plain_variables(variables: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def network_policy(
    profile: Profile, component: Component, name: str, rules: Sequence[Manifest]
) -> Manifest:
    """Return a network policy that allows only the ingress `rules` to the pods of `component`."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": object_metadata(profile, name, component),
        "spec": {
            "podSelector": {"matchLabels": component_labels(profile, component)},
            "policyTypes": ["Ingress"],
            "ingress": list(rules),
        },
    }


def pod_peers(profile: Profile, *components: Component) -> list[Manifest]:
    """Return the pods of these components, as peers of a network policy rule."""
    return [{"podSelector": {"matchLabels": component_labels(profile, one)}} for one in components]


def tcp_port(number: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": number}]


def dump_yaml(objects: Iterable[Manifest], remarks: Sequence[str]) -> str:
    """Return a YAML file that begins with `remarks` as comments."""
    comments = "".join(f"# {line}\n" if line else "#\n" for line in remarks)
    return comments + yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=100
    )


class _Dumper(yaml.SafeDumper):
    """Writes readable YAML: without aliases such as `&id001`, and with multi-line strings as
    blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_string)
