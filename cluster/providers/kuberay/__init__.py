"""Manifests for KubeRay: RayCluster, RayJob, MLflow on Postgres, network policies.

This package may import `local` and the modules of `cluster`.
"""
