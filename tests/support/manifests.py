"""The objects that are rendered for Kubernetes."""

from __future__ import annotations

import yaml

from cluster.profile import Profile
from cluster.providers.kuberay import manifests, rayjob
from cluster.providers.kuberay.pods import Manifest

SWEEP = rayjob.SubmittedSweep(
    name="a_study",
    files={"a_study.yaml": "name: a_study\n"},
    path="a_study.yaml",
    variables={"DATA": "/data", "NUMBER": "7"},
)


def render_objects(profile: Profile, sweep: rayjob.SubmittedSweep | None = None) -> list[Manifest]:
    assert profile.kubernetes
    files = manifests.render(profile, profile.kubernetes, sweep)
    return [item for name in sorted(files) for item in yaml.safe_load_all(files[name])]


def find_object(objects: list[Manifest], kind: str) -> Manifest:
    """Return the only object of this kind."""
    (match,) = (item for item in objects if item["kind"] == kind)
    return match
