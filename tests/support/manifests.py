"""What is rendered for Kubernetes, as the objects it makes."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.profile import Profile
from cluster.providers.kuberay import manifests as kuberay
from cluster.providers.kuberay import rayjob

SWEEP = rayjob.Sweep(
    name="a_study",
    files={"a_study.yaml": "name: a_study\n"},
    path="a_study.yaml",
    variables={"DATA": "/data", "NUMBER": "7"},
)

Manifest = dict[str, Any]


def rendered(profile: Profile, sweep: rayjob.Sweep | None = None) -> list[Manifest]:
    assert profile.kubernetes
    files = kuberay.render(profile, profile.kubernetes, sweep)
    return [item for name in sorted(files) for item in yaml.safe_load_all(files[name])]


def the(objects: list[Manifest], kind: str) -> Manifest:
    (found,) = (one for one in objects if one["kind"] == kind)
    return found
