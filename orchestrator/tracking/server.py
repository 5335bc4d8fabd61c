"""Questions to an MLflow server that need an answer within seconds, without importing mlflow."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.errors import InputError

ANSWER_TIMEOUT_S = 5.0
_NEWEST = 10


def find_experiment(uri: str, name: str) -> str:
    """Return the id of the experiment `name` on the server at `uri`; empty if there is none.

    Raises:
        InputError: the server does not answer, or it is no MLflow server.
    """
    answer = _ask(uri, "experiments/get-by-name", {"experiment_name": name})
    found = answer.get("experiment", {})
    return "" if found.get("lifecycle_stage") == "deleted" else str(found.get("experiment_id", ""))


def newest_experiments(uri: str) -> dict[str, str]:
    """Return the ids of the ten experiments that were updated last, by name.

    Raises:
        InputError: the server does not answer, or it is no MLflow server.
    """
    query = {"max_results": str(_NEWEST + 1), "order_by": "last_update_time DESC"}
    found = _ask(uri, "experiments/search", query).get("experiments", [])
    named = {entry["name"]: str(entry["experiment_id"]) for entry in found}
    named.pop("Default", None)  # MLflow creates it, and no sweep uses it
    return dict(list(named.items())[:_NEWEST])


def _ask(uri: str, request: str, query: dict[str, str]) -> dict[str, Any]:
    import requests

    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    try:
        response = requests.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/{request}",
            params=query,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            auth=(user, password) if user and not token else None,
            timeout=ANSWER_TIMEOUT_S,
        )
        answer = response.json()
    except requests.JSONDecodeError:
        raise InputError(
            f"{uri}: no MLflow server (HTTP {response.status_code}); check `placement.tracking`"
        ) from None
    except requests.RequestException as error:
        raise InputError(
            f"{uri}: MLflow does not answer ({type(error).__name__}); check `placement.tracking`"
            " and that the server is running"
        ) from None
    missing = isinstance(answer, dict) and answer.get("error_code") == "RESOURCE_DOES_NOT_EXIST"
    if not isinstance(answer, dict) or not (response.ok or missing):
        raise InputError(
            f"{uri}: MLflow refuses the request (HTTP {response.status_code}); check"
            " `placement.tracking` and MLFLOW_TRACKING_USERNAME, _PASSWORD or _TOKEN"
        )
    return answer
