"""The profiles that ship, as they are or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cluster.profile import Profile
from tests.support.paths import ROOT

CLUSTERS = ROOT / "configs" / "clusters"
KUBERAY, AWS = CLUSTERS / "kuberay.yaml", CLUSTERS / "aws.yaml"


def document(path: Path, **changes: Any) -> dict[str, Any]:
    """What a profile's file says, with whole sections changed."""
    read: dict[str, Any] = yaml.safe_load(path.read_text())
    return read | changes


def profile(path: Path, **changes: Any) -> Profile:
    return Profile.model_validate(document(path, **changes))
