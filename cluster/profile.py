"""Cluster profiles: a cluster's machines with their prices, its store, and its provider.

A profile is one YAML file in `configs/clusters/`. The files for KubeRay and for `ray up` are
rendered from it, and `plan` and `--budget` take prices from it. It contains no secrets, only names
of secrets.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.addresses import Endpoint, StoreUrl

KubernetesName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""A DNS label, short enough that names derived from it are DNS labels too (63 characters)."""
BoundedCount: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
BoundedCountOrZero: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000)]
"""The limit is more than any cluster has, and fits into the 32-bit integers of Kubernetes."""
PositiveFloat: TypeAlias = Annotated[float, Field(gt=0)]
Price: TypeAlias = Annotated[float, Field(ge=0)]
ContainerImage: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")]
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LabelValue: TypeAlias = Annotated[str, Field(pattern=f"^({_LABEL})?$")]
"""The value of a label of Kubernetes and Ray; it may be empty."""
LabelKey: TypeAlias = Annotated[str, Field(pattern=f"^([a-z0-9.-]{{1,253}}/)?{_LABEL}$")]
RoleName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9+=,.@_-]+$")]
"""The name of an instance profile without its path."""
Subnet: TypeAlias = Annotated[str, Field(pattern="^subnet-[0-9a-f]+$")]
SecurityGroup: TypeAlias = Annotated[str, Field(pattern="^sg-[0-9a-f]+$")]

HEAD_NODE_TYPE = "head"
"""The node type of the head; the others are the names of `workers`."""
MAX_CONCURRENT_LAUNCHES = 64
"""Nodes that the autoscaler requests at once; its default is 10."""
RESERVED_PATHS = (
    "/bin",
    "/dev",
    "/etc",
    "/home/ray",
    "/lib",
    "/proc",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
)
"""Folders of the image, of Ray and of the system that a mount must not hide."""


class ProfileModel(BaseModel):
    """Base of all models of a profile: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Machine(ProfileModel):
    """The machine type of a node; these keys are the same for the head and for workers."""

    instance_type: LabelValue = ""
    """The cloud's name of the instance type, such as `g6.4xlarge`. AWS requires it. On Kubernetes
    it is optional and selects nodes by their label `node.kubernetes.io/instance-type`."""
    cpus: BoundedCount
    """The number of CPUs of a node. On Kubernetes a pod requests as many, so leave some CPUs of the
    machine to the system."""
    memory_gb: Annotated[float, Field(ge=0.25, le=100_000)]
    """The memory of a node in GiB. On Kubernetes a pod requests as much, so leave some memory of
    the machine to the system."""
    disk_gb: BoundedCount = 100
    """The disk of a node in GiB. On AWS it is the size of the node's volume. On Kubernetes it is
    the limit of what a pod may write before it is evicted. A pod requests only 10 GiB, because
    nodes usually have disks of 20 to 80 GiB and a larger request could not be scheduled."""
    price_per_hour: Price
    """The price of one node per hour, in the profile's `currency`."""


class WorkerGroup(Machine):
    """A group of worker nodes of one type."""

    name: KubernetesName
    """The name of the group. It must be unique, and must not be `head`."""
    spot: bool = False
    """Whether the nodes are spot instances, which the cloud may reclaim at any time. Trials then
    resume on another node from their last checkpoint."""
    gpus: BoundedCountOrZero = 0
    """The number of GPUs of a node."""
    gpu_type: LabelValue = ""
    """Ray's name of the GPU type, such as `A10G`. It is the value of the node label
    `ray.io/accelerator-type`."""
    min: BoundedCountOrZero = 0
    """The minimum number of nodes of this group; so many are always running."""
    max: BoundedCount
    """The maximum number of nodes of this group."""
    priority: BoundedCountOrZero = 0
    """The priority of the group. If several groups fit a trial equally well, the autoscaler starts
    nodes of the one with the highest priority until it has `max` nodes, then those of the next. If
    nodes of a group are not available, KubeRay falls back to the next group after 15 minutes;
    `ray up` keeps requesting them (Ray 2.60), so give the other group a `min` on AWS."""

    @model_validator(mode="after")
    def _check_min(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is not allowed; use {self.max} (`max`) or less")
        return self

    def labels(self) -> dict[str, str]:
        """Return Ray's labels of a node of this group."""
        accelerator = {"ray.io/accelerator-type": self.gpu_type} if self.gpu_type else {}
        return {"ray.io/market-type": "spot" if self.spot else "on-demand", **accelerator}


class ProfileStore(ProfileModel):
    """The ticket store, with the same keys as a sweep's `placement.store`."""

    url: StoreUrl
    """The store's bucket and optional prefix, as `s3://BUCKET/PREFIX`."""
    endpoint: Endpoint = ""
    """The URL of the S3 server, without user and password; empty for AWS."""
    region: Annotated[str, Field(pattern="^[a-z0-9-]*$")] = "us-east-1"
    """The region of the bucket."""


class Mount(ProfileModel):
    """A shared folder that is mounted read-only on every node, for datasets and initial weights."""

    path: Annotated[str, Field(pattern=r"^(/[\w-][\w.-]*)+$")]
    """The absolute path of the folder on every node."""
    source: Annotated[str, Field(pattern=r"^[\w./:-]+$")]
    """The volume to mount. On Kubernetes it is the name of a PersistentVolumeClaim. On AWS it is an
    NFS export, such as `fs-0123.efs.eu-west-1.amazonaws.com:/data`."""

    @model_validator(mode="after")
    def _check_path(self) -> Self:
        path = PurePosixPath(self.path)
        for reserved in RESERVED_PATHS:
            if path.is_relative_to(reserved) or PurePosixPath(reserved).is_relative_to(path):
                raise ValueError(
                    f"path = {self.path!r} is not allowed, because it hides {reserved} or is in it;"
                    " use a new folder, such as /data"
                )
        return self


class MLflow(ProfileModel):
    """The MLflow server on Postgres that is rendered with the cluster."""

    secret: KubernetesName = "mlflow-db"
    """The name of the Kubernetes Secret whose key `password` is the password of the database."""
    postgres_image: ContainerImage = "postgres:17"
    """The container image of Postgres."""
    storage_gb: BoundedCount = 20
    """The size in GiB of the volume of the database, and of the volume of the artifacts."""


class Kubernetes(ProfileModel):
    """Settings of the provider `kuberay`."""

    namespace: KubernetesName = "sweepstakes"
    """The namespace of all objects."""
    store_secret: KubernetesName | None = None
    """The name of the Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Without it,
    the `service_account` must be bound to a role that may use the store."""
    service_account: KubernetesName | None = None
    """The service account of the head and the workers. KubeRay adds the autoscaler's permissions to
    it."""
    spot_labels: dict[LabelKey, LabelValue] = {}
    """The labels that select spot nodes, such as `karpenter.sh/capacity-type: spot`. Workers with
    `spot` also tolerate taints of the same keys and values."""
    on_demand_labels: dict[LabelKey, LabelValue] = {}
    """The labels that select on-demand nodes, for the head and for workers without `spot`."""
    storage_class: Annotated[str, Field(pattern="^[a-z0-9.-]*$")] = ""
    """The storage class of MLflow's volumes; empty for the default of the Kubernetes cluster."""
    operator_namespace: KubernetesName = "kuberay-system"
    """The namespace of the KubeRay operator, which may access the dashboard of the Ray cluster."""
    monitoring_namespace: KubernetesName | None = None
    """The namespace of Prometheus, which may read the metrics of every node. No other namespace has
    access."""
    mlflow: MLflow | None = MLflow()
    """The MLflow server to render. With `null` none is rendered, and `placement.tracking` of a
    sweep names an existing server."""


class AWS(ProfileModel):
    """Settings of the provider `aws`."""

    region: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    """The region of the cluster."""
    image_id: Annotated[str, Field(pattern=r"^ami-[0-9a-f]+$")]
    """The id of a machine image with Docker and NVIDIA's container runtime."""
    root_device: Annotated[str, Field(pattern="^/dev/[a-z0-9]+$")] = "/dev/sda1"
    """The name of the root device in the machine image."""
    ssh_user: Annotated[str, Field(pattern="^[a-z_][a-z0-9_-]*$")] = "ubuntu"
    """The SSH user of the machine image. It must have the user id 1000, as the first user of an
    image does, so that the container can read its files."""
    head_instance_profile: RoleName
    """The instance profile of the head. Its role may start and terminate workers and use the store:
    see `head-policy.json` and `store-policy.json`."""
    worker_instance_profile: RoleName
    """The instance profile of workers. Its role may use the store and nothing else, and must have
    the same name, as when the AWS console creates it."""
    subnets: Annotated[list[Subnet], Field(min_length=1)]
    """The ids of the subnets, which Ray tries one by one."""
    security_groups: Annotated[list[SecurityGroup], Field(min_length=1)]
    """The ids of the security groups. They must allow all traffic among the nodes, and port 22 from
    your machine. The group that Ray would create opens port 22 to the world."""


class Profile(ProfileModel):
    """The top level of a cluster profile."""

    name: KubernetesName
    """The name of the cluster."""
    image: ContainerImage
    """The container image of the nodes and of MLflow, built from `cluster/Dockerfile`."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """The currency of all prices, a code of three letters."""
    head: Machine
    """The machine of the head node, which runs the driver and no trials."""
    workers: Annotated[list[WorkerGroup], Field(min_length=1)]
    """The groups of worker nodes, which run the trials."""
    store: ProfileStore
    """The ticket store of sweeps on this cluster."""
    mounts: list[Mount] = []
    """The shared folders of every node."""
    idle_minutes: Annotated[float, Field(ge=0.1, le=10_000)] = 5.0
    """The number of minutes after which an idle worker node is terminated."""
    upscaling_speed: PositiveFloat = 100.0
    """The number of nodes that may be pending at once, as a multiple of the running nodes. The
    default is high, because every pending node has a trial that waits for it."""
    kubernetes: Kubernetes | None = None
    """The settings for Kubernetes; `cluster render --provider kuberay` needs them."""
    aws: AWS | None = None
    """The settings for AWS; `cluster render --provider aws` needs them."""

    providers: dict[str, dict[str, Any]] = {}
    """The settings of providers that installed packages add, by the provider's name."""

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = {f"workers[{index}].name": group.name for index, group in enumerate(self.workers)}
        paths = {f"mounts[{index}].path": mount.path for index, mount in enumerate(self.mounts)}
        for values, taken in ((names, {HEAD_NODE_TYPE}), (paths, set[str]())):
            for key, value in values.items():
                if value in taken:
                    raise ValueError(f"{key} = {value!r} is not allowed; use one that is not taken")
                taken.add(value)
        return self
