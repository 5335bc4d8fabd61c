"""Building blocks of Kubernetes objects, as plain data: names, labels, limits, policies.

Every pod runs without root, without capabilities and without a token of the Kubernetes API, and is
held to its requests of CPUs, memory and GPUs: they are its limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import yaml

from cluster.profile import Profile

Manifest: TypeAlias = dict[str, Any]
Component: TypeAlias = Literal["ray", "submitter", "mlflow", "postgres"]

USER = 1000
"""The user of `cluster/Dockerfile`."""
CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
_PART, _COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"


def labels(profile: Profile, component: Component) -> dict[str, str]:
    return {_PART: profile.name, _COMPONENT: component}


def metadata(
    profile: Profile, name: str, component: Component | None = None
) -> dict[str, str | dict[str, str]]:
    """Of an object in the profile's namespace; with labels if it belongs to one component."""
    found: dict[str, str | dict[str, str]] = {"name": name}
    if profile.kubernetes:
        found["namespace"] = profile.kubernetes.namespace
    return found | ({"labels": labels(profile, component)} if component else {})


def security(user: int = USER) -> Manifest:
    """A pod's security context; volumes belong to the user's group."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(**amounts: str) -> Manifest:
    """Limits that are the requests too."""
    return {"requests": amounts, "limits": dict(amounts)}


def secret(variable: str, *, name: str, key: str) -> Manifest:
    """An environment variable whose value only the cluster knows."""
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def values(variables: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def policy(
    profile: Profile, component: Component, name: str, rules: Sequence[Manifest]
) -> Manifest:
    """Nobody reaches the pods of `component` but by `rules` (`ingress` of a NetworkPolicy)."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(profile, name, component),
        "spec": {
            "podSelector": {"matchLabels": labels(profile, component)},
            "policyTypes": ["Ingress"],
            "ingress": list(rules),
        },
    }


def ours(profile: Profile, *components: Component) -> list[Manifest]:
    """Pods of these components, as peers of a rule."""
    return [{"podSelector": {"matchLabels": labels(profile, one)}} for one in components]


def port(number: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": number}]


def dump(objects: Iterable[Manifest], remarks: Sequence[str]) -> str:
    """A YAML file that opens with `remarks`."""
    head = "".join(f"# {line}\n" if line else "#\n" for line in remarks)
    return head + yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=100
    )


class _Dumper(yaml.SafeDumper):
    """Without `&id001`, and with texts of several lines as blocks, for whoever reads the files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
