"""Everything that can be wrong in a profile is one line that names the key and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.profile import Profile
from orchestrator import yaml_file
from orchestrator.errors import ConfigError
from tests.cluster import profiles

SPOT: dict[str, Any] = {"name": "spot", "cpus": 4, "memory_gb": 8, "max": 2, "price_per_hour": 1.0}


@pytest.mark.parametrize("path", [profiles.KUBERAY, profiles.AWS], ids=lambda path: path.stem)
def test_those_that_ship_can_be_read(path: Path) -> None:
    read = yaml_file.load(path, Profile, kind="profile")
    assert read.prices() == {"head": read.head.price_per_hour} | {
        kind.name: kind.price_per_hour for kind in read.workers
    }


@pytest.mark.parametrize(
    ("change", "where", "cure"),
    [
        ({"workers": []}, "workers = []", "at least 1 item"),
        ({"workers": [SPOT | {"min": 3}]}, "workers[0].min = 3", "use 2 (`max`) or less"),
        ({"workers": [SPOT, SPOT]}, "workers[1].name = 'spot'", "not taken"),
        ({"workers": [SPOT | {"name": "head"}]}, "workers[0].name = 'head'", "not taken"),
        ({"workers": [SPOT | {"name": "a b"}]}, "workers[0].name = 'a b'", "must match"),
        ({"workers": [SPOT | {"gpu": 1}]}, "workers[0].gpu", "did you mean `gpus`?"),
        ({"workers": [SPOT | {"price": 1}]}, "workers[0].price", "price_per_hour,"),
        ({"workers": [SPOT | {"price_per_hour": -1}]}, "price_per_hour = -1", "0 or more"),
        ({"workers": [SPOT | {"spot": "yes"}]}, "workers[0].spot = 'yes'", "valid boolean"),
        ({"head": {"cpus": 2, "memory_gb": 4}}, "head.price_per_hour is missing", "add it"),
        ({"store": {"url": "gs://b"}}, "store.url = 'gs://b'", "must match ^s3://"),
        ({"store": {"url": "s3://bucket", "key": "x"}}, "store.key", "use one of url, endpoint"),
        ({"mounts": [{"path": "data", "source": "pvc"}]}, "mounts[0].path = 'data'", "match ^/"),
        ({"mounts": [{"path": "/d", "source": "$(rm)"}]}, "mounts[0].source", "must match"),
        ({"currency": "euro"}, "currency = 'euro'", "must match"),
        ({"idle_minutes": 0}, "idle_minutes = 0", "more than 0"),
        ({"kubernetes": {"mlflow": {"password": "x"}}}, "kubernetes.mlflow.password", "secret"),
        ({"aws": {"region": "eu-west-1"}}, "aws.image_id is missing", "add it"),
    ],
)
def test_one_line_says_where_and_how_to_mend(
    tmp_path: Path, change: dict[str, Any], where: str, cure: str
) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(profiles.document(profiles.KUBERAY, **change)))
    with pytest.raises(ConfigError) as caught:
        yaml_file.load(path, Profile, kind="profile")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert where in message
    assert cure in message
    assert "\n" not in message
