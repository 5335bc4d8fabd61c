"""Observers of a run: terminal progress, status, explain, timeline, budget and Prometheus.

It may import `report`, `tracking`, `ray_cluster`, `cost`, `store`, `schedule` and `plan`.
"""
