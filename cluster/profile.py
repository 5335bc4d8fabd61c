"""A cluster's profile: its machines with their prices, its store, where it runs.

One YAML file under `configs/clusters/`. The manifests for KubeRay and for `ray up` are rendered
from it, `plan` and `--budget` take their prices from it. It holds no secret, only names of secrets.
"""

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""A DNS label, short enough that what is named after it is one as well (63 characters)."""
Count: TypeAlias = Annotated[int, Field(ge=1)]
CountOrZero: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Price: TypeAlias = Annotated[float, Field(ge=0)]

HEAD = "head"
"""The head's node type, beside the names of `workers`."""
LAUNCHES = 64
"""Nodes that the autoscaler asks for at once; by itself it stops at 10."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Machine(Strict):
    """What every node of the cluster has."""

    instance_type: str = ""
    """As the cloud names it; on Kubernetes it selects nodes by their label where it is given."""
    cpus: Count
    """On Kubernetes a pod asks for as many, so leave some of the machine to the system."""
    memory_gb: Positive
    """In GiB; on Kubernetes the same holds."""
    disk_gb: Count = 100
    price_per_hour: Price
    """Of one node, in the profile's currency."""


class Workers(Machine):
    """One kind of worker node."""

    name: Name
    spot: bool = False
    """May be taken away at any time: trials go on elsewhere from their last checkpoint."""
    gpus: CountOrZero = 0
    gpu_type: str = ""
    """Ray's name of it, such as `A10G`: becomes the label `ray.io/accelerator-type`."""
    min: CountOrZero = 0
    """Nodes of this kind that are there at all times."""
    max: Count
    priority: CountOrZero = 0
    """Of two kinds that serve a trial alike, the autoscaler starts the one with more of it, and the
    other once that is at its `max`. When the first cannot be had, Kubernetes falls back after
    `kuberay.PENDING_S`; `ray up` goes on asking (Ray 2.60), so give the other a `min` there."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is not allowed; use {self.max} (`max`) or less")
        return self

    def labels(self) -> dict[str, str]:
        """Ray's own labels of such a node."""
        accelerator = {"ray.io/accelerator-type": self.gpu_type} if self.gpu_type else {}
        return {"ray.io/market-type": "spot" if self.spot else "on-demand", **accelerator}


class Store(Strict):
    """The ticket store, as a sweep's `placement.store` names it."""

    url: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/.*)?$")]
    endpoint: str = ""
    region: str = "us-east-1"


class Mount(Strict):
    """A shared folder, read-only on every node: data sets, start weights."""

    path: Annotated[str, Field(pattern=r"^/[\w./-]+$")]
    source: Annotated[str, Field(pattern=r"^[\w./:-]+$")]
    """On Kubernetes a PersistentVolumeClaim; on AWS an NFS export, such as
    `fs-0123.efs.eu-west-1.amazonaws.com:/data`."""


class MLflow(Strict):
    """The MLflow server, on Postgres, that is rendered beside the cluster."""

    secret: Name = "mlflow-db"
    """Kubernetes Secret whose key `password` is the database's password."""
    postgres_image: str = "postgres:17"
    storage_gb: Count = 20
    """Of the database, and again of the artifacts."""


class Kubernetes(Strict):
    """What only the form `kuberay` needs."""

    namespace: Name = "sweepstakes"
    store_secret: Name | None = None
    """Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without it the
    `service_account` has to be bound to a role that may use the store."""
    service_account: Name | None = None
    """Of the head and the workers; KubeRay adds the autoscaler's rights to it."""
    spot_labels: dict[str, str] = {}
    """Labels (and taints) of spot nodes, such as `karpenter.sh/capacity-type: spot`."""
    on_demand_labels: dict[str, str] = {}
    storage_class: str = ""
    """Of MLflow's volumes; the cluster's default where it is empty."""
    operator_namespace: Name = "kuberay-system"
    """Where KubeRay runs: the only other namespace that may talk to the cluster."""
    mlflow: MLflow | None = MLflow()
    """`null` renders none: the sweep's `placement.tracking` names one that is there already."""


class AWS(Strict):
    """What only the form `aws` needs."""

    region: str
    image_id: Annotated[str, Field(pattern=r"^ami-[0-9a-f]+$")]
    """A machine image with Docker and NVIDIA's container runtime."""
    root_device: str = "/dev/sda1"
    """That image's own name of its disk."""
    ssh_user: str = "ubuntu"
    """User number 1000, as the first user of an image is: what it owns, the container can read."""
    head_instance_profile: str
    """May start and end workers, and use the store: `head-policy.json` and `store-policy.json`."""
    worker_instance_profile: str
    """May use the store and nothing else. Its role has the same name, as the console makes it."""
    subnets: Annotated[list[str], Field(min_length=1)]
    security_groups: Annotated[list[str], Field(min_length=1)]
    """Open among themselves, and port 22 to you. The one that Ray would make opens port 22 to the
    world."""


class Profile(Strict):
    name: Name
    image: str
    """Made from `cluster/Dockerfile`; the nodes and MLflow run it."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    head: Machine
    """Runs the driver and no trial."""
    workers: Annotated[list[Workers], Field(min_length=1)]
    store: Store
    mounts: list[Mount] = []
    idle_minutes: Positive = 5.0
    """A worker without work for so long is given back."""
    upscaling_speed: Positive = 100.0
    """New nodes at once, as a multiple of those running: high, since trials do wait."""
    kubernetes: Kubernetes | None = None
    aws: AWS | None = None

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [HEAD, *(kind.name for kind in self.workers)]
        for number, name in enumerate(names[1:]):
            if name in names[: number + 1]:
                raise ValueError(
                    f"workers[{number}].name = {name!r} is not allowed; use one that is not taken"
                )
        return self

    def prices(self) -> dict[str, float]:
        """Price of a node-hour by node type, the head's under `head`."""
        return {HEAD: self.head.price_per_hour} | {
            kind.name: kind.price_per_hour for kind in self.workers
        }
