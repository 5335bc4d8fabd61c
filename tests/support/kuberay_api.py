"""The fields of specs in KubeRay's API (v1.7, `ray.io/v1`, its reference page).

Kubernetes silently drops unknown fields, so mistyped ones would be lost. Pod templates belong to
Kubernetes' API and are checked with its schemas.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["disabled", "token"] | None = None
    secretName: str | None = None
    enableK8sTokenAuth: bool | None = None


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"] | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    idleTimeoutSeconds: int | None = None
    image: str | None = None
    imagePullPolicy: str | None = None
    resources: dict[str, Any] | None = None
    securityContext: dict[str, Any] | None = None
    env: list[dict[str, Any]] | None = None
    envFrom: list[dict[str, Any]] | None = None
    volumeMounts: list[dict[str, Any]] | None = None


class HeadGroupSpec(Strict):
    template: dict[str, Any]
    rayStartParams: dict[str, str]
    resources: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    serviceType: str | None = None
    headService: dict[str, Any] | None = None
    enableIngress: bool | None = None


class WorkerGroupSpec(Strict):
    groupName: str
    template: dict[str, Any]
    rayStartParams: dict[str, str]
    replicas: int
    minReplicas: int
    maxReplicas: int
    priority: int | None = None
    idleTimeoutSeconds: int | None = None
    numOfHosts: int | None = None
    resources: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    scaleStrategy: dict[str, Any] | None = None
    suspend: bool | None = None


class RayClusterSpec(Strict):
    headGroupSpec: HeadGroupSpec
    workerGroupSpecs: list[WorkerGroupSpec]
    rayVersion: str
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    gcsFaultToleranceOptions: dict[str, Any] | None = None
    headServiceAnnotations: dict[str, str] | None = None
    upgradeStrategy: dict[str, Any] | None = None
    suspend: bool | None = None
    managedBy: str | None = None


class RayJobSpec(Strict):
    entrypoint: str
    rayClusterSpec: RayClusterSpec
    runtimeEnvYAML: str | None = None
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] | None = (
        None
    )
    submitterPodTemplate: dict[str, Any] | None = None
    submitterConfig: dict[str, Any] | None = None
    backoffLimit: int | None = None
    shutdownAfterJobFinishes: bool | None = None
    ttlSecondsAfterFinished: int | None = None
    activeDeadlineSeconds: int | None = None
    preRunningDeadlineSeconds: int | None = None
    entrypointNumCpus: float | None = None
    entrypointNumGpus: float | None = None
    entrypointResources: str | None = None
    clusterSelector: dict[str, str] | None = None
    deletionStrategy: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    jobId: str | None = None
    suspend: bool | None = None
    managedBy: str | None = None


SPECS: dict[str, type[Strict]] = {"RayCluster": RayClusterSpec, "RayJob": RayJobSpec}
