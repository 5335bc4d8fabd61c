"""Manifests for KubeRay: RayCluster, RayJob, MLflow on Postgres, network policies.

It may import `local` and the modules beside the rooms.
"""
