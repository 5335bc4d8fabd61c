"""MLflow on Postgres, as Kubernetes objects.

The server needs no right to the ticket store: artifacts pass through it to a volume of its own.
All it holds can be made again from the store with `sweepstakes sync`.
"""

from __future__ import annotations

from cluster.local.services import MLFLOW_SETTINGS
from cluster.profile import Kubernetes, MLflow, Profile
from cluster.providers.kuberay import pods
from cluster.providers.kuberay.pods import Component, Manifest

PORT = 5000
DATABASE_PORT = 5432
POSTGRES_USER = 999
"""The user of Docker's official Debian image of Postgres."""


def address(profile: Profile) -> str:
    """What a sweep's `placement.tracking` is to say, on the cluster."""
    return f"http://{_server(profile)}:{PORT}"


def objects(profile: Profile, kubernetes: Kubernetes, mlflow: MLflow) -> list[Manifest]:
    """Server and database with their volumes, services and network policies."""
    return [
        _database(profile, kubernetes, mlflow),
        _service(profile, "postgres", _store(profile), DATABASE_PORT),
        pods.policy(
            profile,
            "postgres",
            _store(profile),
            [{"from": pods.ours(profile, "mlflow"), "ports": pods.port(DATABASE_PORT)}],
        ),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": pods.metadata(profile, _server(profile), "mlflow"),
            "spec": _claim(kubernetes, mlflow),
        },
        _deployment(profile, kubernetes, mlflow),
        _service(profile, "mlflow", _server(profile), PORT),
        pods.policy(
            profile,
            "mlflow",
            _server(profile),
            [{"from": pods.ours(profile, "ray"), "ports": pods.port(PORT)}],
        ),
    ]


def allowed_hosts(profile: Profile, kubernetes: Kubernetes) -> list[str]:
    """The only `Host` headers that the server answers, so that no page in a browser can reach it
    under another name (DNS rebinding); `kubectl port-forward` comes as localhost."""
    service = _server(profile)
    names = (service, f"{service}.{kubernetes.namespace}.svc")
    return [*(f"{name}:{PORT}" for name in names), "localhost:*", "127.0.0.1:*"]


def _server(profile: Profile) -> str:
    return f"{profile.name}-mlflow"


def _store(profile: Profile) -> str:
    return f"{profile.name}-mlflow-db"


def _database(profile: Profile, kubernetes: Kubernetes, mlflow: MLflow) -> Manifest:
    data = "/var/lib/postgresql/data"
    settings = {
        "POSTGRES_USER": "mlflow",
        "POSTGRES_DB": "mlflow",
        "PGDATA": f"{data}/pgdata",  # a volume's own lost+found must not lie beside the tables
    }
    container = {
        "name": "postgres",
        "image": mlflow.postgres_image,
        "env": [
            *pods.values(settings),
            pods.secret("POSTGRES_PASSWORD", name=mlflow.secret, key="password"),
        ],
        "ports": [{"containerPort": DATABASE_PORT}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "--username=mlflow"]}},
        "resources": pods.resources(cpu="1", memory="2Gi"),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [{"name": "data", "mountPath": data}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": pods.metadata(profile, _store(profile), "postgres"),
        "spec": {
            "serviceName": _store(profile),
            "replicas": 1,
            "selector": {"matchLabels": pods.labels(profile, "postgres")},
            "template": {
                "metadata": {"labels": pods.labels(profile, "postgres")},
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": pods.security(POSTGRES_USER),
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
    # SQLAlchemy 2.1 takes another driver where none is named
    database = f"postgresql+psycopg2://mlflow@{_store(profile)}:{DATABASE_PORT}/mlflow"
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
            *pods.values(MLFLOW_SETTINGS | {"MLFLOW_SERVER_ALLOWED_HOSTS": hosts}),
            # Postgres' client library reads it: in the address it would be seen in `ps`
            pods.secret("PGPASSWORD", name=mlflow.secret, key="password"),
        ],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": health,
        "startupProbe": health | {"failureThreshold": 30},
        "livenessProbe": health | {"failureThreshold": 6},
        "resources": pods.resources(cpu="2", memory="4Gi"),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [{"name": "artifacts", "mountPath": "/artifacts"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": pods.metadata(profile, _server(profile), "mlflow"),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # the volume is one node's at a time
            "selector": {"matchLabels": pods.labels(profile, "mlflow")},
            "template": {
                "metadata": {"labels": pods.labels(profile, "mlflow")},
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": pods.security(),
                    "containers": [container],
                    "volumes": [
                        {
                            "name": "artifacts",
                            "persistentVolumeClaim": {"claimName": _server(profile)},
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
        "metadata": pods.metadata(profile, name, component),
        "spec": {"selector": pods.labels(profile, component), "ports": pods.port(port)},
    }


def _claim(kubernetes: Kubernetes, mlflow: MLflow) -> Manifest:
    chosen = {"storageClassName": kubernetes.storage_class} if kubernetes.storage_class else {}
    return {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{mlflow.storage_gb}Gi"}},
        **chosen,
    }
