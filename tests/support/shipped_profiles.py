"""The cluster profiles in `configs/clusters`, unchanged or with changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cluster.profile import Profile
from tests.support.paths import ROOT

CLUSTERS = ROOT / "configs" / "clusters"
KUBERAY, AWS = CLUSTERS / "kuberay.yaml", CLUSTERS / "aws.yaml"


def profile_document(path: Path, **changes: Any) -> dict[str, Any]:
    """Return the contents of a profile's file, with top-level sections replaced by `changes`."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document | changes


def load_profile(path: Path, **changes: Any) -> Profile:
    return Profile.model_validate(profile_document(path, **changes))
