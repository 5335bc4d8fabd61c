"""Errors in a profile are one line that names the key and how to fix it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.profile import Profile
from orchestrator.errors import ConfigError
from orchestrator.sweep import yaml_file
from tests.support import shipped_profiles

SPOT: dict[str, Any] = {"name": "spot", "cpus": 4, "memory_gb": 8, "max": 2, "price_per_hour": 1.0}
DATA = {"path": "/data", "source": "pvc"}


@pytest.mark.parametrize(
    "path", [shipped_profiles.KUBERAY, shipped_profiles.AWS], ids=lambda path: path.stem
)
def test_the_shipped_profiles_are_valid(path: Path) -> None:
    profile = yaml_file.load_yaml(path, Profile, kind="profile")
    assert profile.store.url.startswith("s3://")


@pytest.mark.parametrize(
    ("change", "where", "advice"),
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
        ({"store": {"url": "gs://b"}}, "store.url = 'gs://b'", "use s3://bucket"),
        ({"store": {"url": "s3://ab"}}, "store.url = 's3://ab'", "3 to 63 characters"),
        ({"store": {"url": "s3://bucket", "key": "x"}}, "store.key", "use one of url, endpoint"),
        ({"mounts": [{"path": "data", "source": "pvc"}]}, "mounts[0].path = 'data'", "match ^(/"),
        ({"mounts": [{"path": "/d", "source": "$(rm)"}]}, "mounts[0].source", "must match"),
        ({"currency": "euro"}, "currency = 'euro'", "must match"),
        ({"idle_minutes": 0}, "idle_minutes = 0", "0.1 or more"),
        ({"idle_minutes": math.inf}, "idle_minutes = inf", "finite"),
        ({"upscaling_speed": math.inf}, "upscaling_speed = inf", "finite"),
        ({"workers": [SPOT | {"memory_gb": 1e-9}]}, "memory_gb = 1e-09", "0.25 or more"),
        ({"workers": [SPOT | {"memory_gb": 1e300}]}, "memory_gb = 1e+300", "100000"),
        ({"workers": [SPOT | {"price_per_hour": math.nan}]}, "price_per_hour = nan", "finite"),
        ({"workers": [SPOT | {"cpus": 10**400}]}, "workers[0].cpus = 1000", "1000000 or less"),
        ({"workers": [SPOT | {"gpu_type": "A 10/x"}]}, "gpu_type = 'A 10/x'", "must match"),
        ({"image": ""}, "image = ''", "must match"),
        ({"image": " a:1"}, "image = ' a:1'", "must match"),
        ({"store": {"url": "s3://bucket", "region": "x y"}}, "store.region = 'x y'", "must match"),
        ({"mounts": [{"path": "/a/../b", "source": "p"}]}, "mounts[0].path = '/a/../b'", "match"),
        ({"mounts": [{"path": "/dev/shm", "source": "p"}]}, "mounts[0].path = '/dev/shm'", "/data"),
        ({"mounts": [{"path": "/home", "source": "p"}]}, "mounts[0].path = '/home'", "/data"),
        ({"mounts": [DATA, DATA]}, "mounts[1].path = '/data'", "not taken"),
        ({"kubernetes": {"spot_labels": {"a b": "c"}}}, "kubernetes.spot_labels.a b", "match"),
        ({"kubernetes": {"spot_labels": {"a/b": "c d"}}}, "kubernetes.spot_labels.a/b", "match"),
        ({"kubernetes": {"mlflow": {"password": "x"}}}, "kubernetes.mlflow.password", "secret"),
        ({"aws": {"region": "eu-west-1"}}, "aws.image_id is missing", "add it"),
    ],
)
def test_an_error_is_one_line_with_the_key_and_advice(
    tmp_path: Path, change: dict[str, Any], where: str, advice: str
) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(
        yaml.safe_dump(shipped_profiles.profile_document(shipped_profiles.KUBERAY, **change))
    )
    with pytest.raises(ConfigError) as caught:
        yaml_file.load_yaml(path, Profile, kind="profile")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert where in message
    assert advice in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["url", "endpoint"])
def test_a_password_in_an_address_is_an_error_and_not_repeated(tmp_path: Path, key: str) -> None:
    store = {"url": "s3://bucket", key: "https://me:do-not-tell@host/x"}
    path = tmp_path / "profile.yaml"
    path.write_text(
        yaml.safe_dump(shipped_profiles.profile_document(shipped_profiles.KUBERAY, store=store))
    )
    with pytest.raises(ConfigError, match=f"store.{key} = ") as caught:
        yaml_file.load_yaml(path, Profile, kind="profile")
    assert "do-not-tell" not in str(caught.value)
