"""MLflow on Postgres, as Kubernetes objects.

The server does not access the ticket store: it proxies artifacts to its own volume. All of its data
can be restored from the store with `sweepstakes sync`.
"""

from __future__ import annotations

from cluster.local.services import MLFLOW_SETTINGS
from cluster.profile import Kubernetes, MLflow, Profile
from cluster.providers.kuberay import pods
from cluster.providers.kuberay.pods import Component, Manifest

PORT = 5000
DATABASE_PORT = 5432
POSTGRES_USER = 999
"""The user id of Postgres in Docker's official Debian image."""


def tracking_uri(profile: Profile) -> str:
    """Return the value of `placement.tracking` for sweeps on the cluster."""
    return f"http://{_server_name(profile)}:{PORT}"


def mlflow_objects(profile: Profile, kubernetes: Kubernetes, mlflow: MLflow) -> list[Manifest]:
    """Return the server and the database with their volumes, services and network policies."""
    return [
        _database(profile, kubernetes, mlflow),
        _service(profile, "postgres", _database_name(profile), DATABASE_PORT),
        pods.network_policy(
            profile,
            "postgres",
            _database_name(profile),
            [{"from": pods.pod_peers(profile, "mlflow"), "ports": pods.tcp_port(DATABASE_PORT)}],
        ),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": pods.object_metadata(profile, _server_name(profile), "mlflow"),
            "spec": _claim(kubernetes, mlflow),
        },
        _deployment(profile, kubernetes, mlflow),
        _service(profile, "mlflow", _server_name(profile), PORT),
        pods.network_policy(
            profile,
            "mlflow",
            _server_name(profile),
            [{"from": pods.pod_peers(profile, "ray"), "ports": pods.tcp_port(PORT)}],
        ),
    ]


def allowed_hosts(profile: Profile, kubernetes: Kubernetes) -> list[str]:
    """Return the `Host` headers that the server accepts. Web pages cannot reach it under another
    name (DNS rebinding). `kubectl port-forward` uses localhost."""
    service = _server_name(profile)
    names = (service, f"{service}.{kubernetes.namespace}.svc")
    return [*(f"{name}:{PORT}" for name in names), "localhost:*", "127.0.0.1:*"]


def _server_name(profile: Profile) -> str:
    return f"{profile.name}-mlflow"


def _database_name(profile: Profile) -> str:
    return f"{profile.name}-mlflow-db"


def _database(profile: Profile, kubernetes: Kubernetes, mlflow: MLflow) -> Manifest:
    data = "/var/lib/postgresql/data"
    settings = {
        "POSTGRES_USER": "mlflow",
        "POSTGRES_DB": "mlflow",
        "PGDATA": f"{data}/pgdata",  # the folder must not contain the volume's lost+found
    }
    container = {
        "name": "postgres",
        "image": mlflow.postgres_image,
        "env": [
            *pods.plain_variables(settings),
            pods.secret_variable("POSTGRES_PASSWORD", name=mlflow.secret, key="password"),
        ],
        "ports": [{"containerPort": DATABASE_PORT}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "--username=mlflow"]}},
        "resources": pods.equal_resources(cpu="1", memory="2Gi"),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [{"name": "data", "mountPath": data}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": pods.object_metadata(profile, _database_name(profile), "postgres"),
        "spec": {
            "serviceName": _database_name(profile),
            "replicas": 1,
            "selector": {"matchLabels": pods.component_labels(profile, "postgres")},
            "template": {
                "metadata": {"labels": pods.component_labels(profile, "postgres")},
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": pods.pod_security_context(POSTGRES_USER),
                    "containers": [container],
                },
            },
            "volumeClaimTemplates": [
                {"metadata": {"name": "data"}, "spec": _claim(kubernetes, mlflow)}
            ],
        },
    }


def _deployment(profile: Profile, kubernetes: Kubernetes, mlflow: MLflow) -> Manifest:
    hosts = ",".join(allowed_hosts(profile, kubernetes))
    # The driver is explicit because SQLAlchemy 2.1 has another default.
    database = f"postgresql+psycopg2://mlflow@{_database_name(profile)}:{DATABASE_PORT}/mlflow"
    health = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 10}
    container = {
        "name": "mlflow",
        "image": profile.image,
        "command": [
            *("mlflow", "server", "--host=0.0.0.0", f"--port={PORT}", "--workers=2"),
            f"--backend-store-uri={database}",
            "--artifacts-destination=/artifacts",
        ],
        "env": [
            *pods.plain_variables(MLFLOW_SETTINGS | {"MLFLOW_SERVER_ALLOWED_HOSTS": hosts}),
            # Postgres' client library reads it. In the URI it would be visible in `ps`.
            pods.secret_variable("PGPASSWORD", name=mlflow.secret, key="password"),
        ],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": health,
        "startupProbe": health | {"failureThreshold": 30},
        "livenessProbe": health | {"failureThreshold": 6},
        "resources": pods.equal_resources(cpu="2", memory="4Gi"),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [{"name": "artifacts", "mountPath": "/artifacts"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pods.object_metadata(profile, _server_name(profile), "mlflow"),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # only one node at a time can mount the volume
            "selector": {"matchLabels": pods.component_labels(profile, "mlflow")},
            "template": {
                "metadata": {"labels": pods.component_labels(profile, "mlflow")},
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": pods.pod_security_context(),
                    "containers": [container],
                    "volumes": [
                        {
                            "name": "artifacts",
                            "persistentVolumeClaim": {"claimName": _server_name(profile)},
                        }
                    ],
                },
            },
        },
    }


def _service(profile: Profile, component: Component, name: str, port: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pods.object_metadata(profile, name, component),
        "spec": {
            "selector": pods.component_labels(profile, component),
            "ports": pods.tcp_port(port),
        },
    }


def _claim(kubernetes: Kubernetes, mlflow: MLflow) -> Manifest:
    storage = {"storageClassName": kubernetes.storage_class} if kubernetes.storage_class else {}
    return {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{mlflow.storage_gb}Gi"}},
        **storage,
    }
