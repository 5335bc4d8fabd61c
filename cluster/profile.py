"""A cluster's profile: its machines with their prices, its store, where it runs.

One YAML file under `configs/clusters/`. The manifests for KubeRay and for `ray up` are rendered
from it, `plan` and `--budget` take their prices from it. It holds no secret, only names of secrets.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""A DNS label, short enough that what is named after it is one as well (63 characters)."""
Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrZero: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000)]
"""A million is more than any cluster has, and fits into the 32 bits of Kubernetes' own numbers."""
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Price: TypeAlias = Annotated[float, Field(ge=0)]
Image: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")]
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
Label: TypeAlias = Annotated[str, Field(pattern=f"^({_LABEL})?$")]
"""The value of a label, as Kubernetes and Ray take it; may be empty."""
LabelKey: TypeAlias = Annotated[str, Field(pattern=f"^([a-z0-9.-]{{1,253}}/)?{_LABEL}$")]
Role: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9+=,.@_-]+$")]
"""The name of an instance profile, without its path."""
Subnet: TypeAlias = Annotated[str, Field(pattern="^subnet-[0-9a-f]+$")]
Group: TypeAlias = Annotated[str, Field(pattern="^sg-[0-9a-f]+$")]

HEAD = "head"
"""The head's node type, beside the names of `workers`."""
LAUNCHES = 64
"""Nodes that the autoscaler asks for at once; by itself it stops at 10."""
OURS = ("/bin", "/dev", "/etc", "/home/ray", "/lib", "/proc", "/sbin", "/sys", "/tmp", "/usr")
"""Folders of the image, of Ray and of the system that no mount may hide."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Machine(Strict):
    """What every node of the cluster has."""

    instance_type: Label = ""
    """As the cloud names it; on Kubernetes it selects nodes by their label where it is given."""
    cpus: Count
    """On Kubernetes a pod asks for as many, so leave some of the machine to the system."""
    memory_gb: Annotated[float, Field(ge=0.25, le=100_000)]
    """In GiB; on Kubernetes the same holds."""
    disk_gb: Count = 100
    """In GiB: on AWS the node's own disk. On Kubernetes it is the most that a pod may write before
    it is evicted, and not what it asks for (`kuberay.DISK_GB`): nodes have 20 to 80 as a rule, and
    one that had less than the default would never be chosen."""
    price_per_hour: Price
    """Of one node, in the profile's currency."""


class Workers(Machine):
    """One kind of worker node."""

    name: Name
    spot: bool = False
    """May be taken away at any time: trials go on elsewhere from their last checkpoint."""
    gpus: CountOrZero = 0
    gpu_type: Label = ""
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
    region: Annotated[str, Field(pattern="^[a-z0-9-]*$")] = "us-east-1"

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, given: Any) -> Any:
        """Before the fields' own checks, which repeat what they refuse."""
        for key in ("url", "endpoint"):
            if isinstance(given, dict) and re.match("[^/]*//[^/]*@", str(given.get(key))):
                raise ValueError(
                    f"{key} holds a user name or password; take it out: credentials come from"
                    " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                )
        return given


class Mount(Strict):
    """A shared folder, read-only on every node: data sets, start weights."""

    path: Annotated[str, Field(pattern=r"^(/[\w-][\w.-]*)+$")]
    source: Annotated[str, Field(pattern=r"^[\w./:-]+$")]
    """On Kubernetes a PersistentVolumeClaim; on AWS an NFS export, such as
    `fs-0123.efs.eu-west-1.amazonaws.com:/data`."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        path = PurePosixPath(self.path)
        for taken in OURS:
            if path.is_relative_to(taken) or PurePosixPath(taken).is_relative_to(path):
                raise ValueError(
                    f"path = {self.path!r} is not allowed, as it would hide {taken} or be in it;"
                    " use a folder of its own, such as /data"
                )
        return self


class MLflow(Strict):
    """The MLflow server, on Postgres, that is rendered beside the cluster."""

    secret: Name = "mlflow-db"
    """Kubernetes Secret whose key `password` is the database's password."""
    postgres_image: Image = "postgres:17"
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
    spot_labels: dict[LabelKey, Label] = {}
    """Labels (and taints) of spot nodes, such as `karpenter.sh/capacity-type: spot`."""
    on_demand_labels: dict[LabelKey, Label] = {}
    storage_class: Annotated[str, Field(pattern="^[a-z0-9.-]*$")] = ""
    """Of MLflow's volumes; the cluster's default where it is empty."""
    operator_namespace: Name = "kuberay-system"
    """Where KubeRay runs: it may talk to the cluster's dashboard."""
    monitoring_namespace: Name | None = None
    """Where Prometheus runs: it may read the metrics of every node. No other namespace is let in.
    """
    mlflow: MLflow | None = MLflow()
    """`null` renders none: the sweep's `placement.tracking` names one that is there already."""


class AWS(Strict):
    """What only the form `aws` needs."""

    region: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    image_id: Annotated[str, Field(pattern=r"^ami-[0-9a-f]+$")]
    """A machine image with Docker and NVIDIA's container runtime."""
    root_device: Annotated[str, Field(pattern="^/dev/[a-z0-9]+$")] = "/dev/sda1"
    """That image's own name of its disk."""
    ssh_user: Annotated[str, Field(pattern="^[a-z_][a-z0-9_-]*$")] = "ubuntu"
    """User number 1000, as the first user of an image is: what it owns, the container can read."""
    head_instance_profile: Role
    """May start and end workers, and use the store: `head-policy.json` and `store-policy.json`."""
    worker_instance_profile: Role
    """May use the store and nothing else. Its role has the same name, as the console makes it."""
    subnets: Annotated[list[Subnet], Field(min_length=1)]
    security_groups: Annotated[list[Group], Field(min_length=1)]
    """Open among themselves, and port 22 to you. The one that Ray would make opens port 22 to the
    world."""


class Profile(Strict):
    name: Name
    image: Image
    """Made from `cluster/Dockerfile`; the nodes and MLflow run it."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    head: Machine
    """Runs the driver and no trial."""
    workers: Annotated[list[Workers], Field(min_length=1)]
    store: Store
    mounts: list[Mount] = []
    idle_minutes: Annotated[float, Field(ge=0.1, le=10_000)] = 5.0
    """A worker without work for so long is given back."""
    upscaling_speed: Positive = 100.0
    """New nodes at once, as a multiple of those running: high, since trials do wait."""
    kubernetes: Kubernetes | None = None
    aws: AWS | None = None

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = {f"workers[{place}].name": kind.name for place, kind in enumerate(self.workers)}
        paths = {f"mounts[{place}].path": mount.path for place, mount in enumerate(self.mounts)}
        for found, taken in ((names, {HEAD}), (paths, set[str]())):
            for where, value in found.items():
                if value in taken:
                    raise ValueError(
                        f"{where} = {value!r} is not allowed; use one that is not taken"
                    )
                taken.add(value)
        return self

    def prices(self) -> dict[str, float]:
        """Price of a node-hour by node type, the head's under `head`."""
        return {HEAD: self.head.price_per_hour} | {
            kind.name: kind.price_per_hour for kind in self.workers
        }
