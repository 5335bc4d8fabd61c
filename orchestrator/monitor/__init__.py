"""What observes a run: progress in the terminal, status, explain, timeline, budget, Prometheus.

It may import `report`, `tracking`, `ray_cluster`, `cost`, `store`, `schedule` and `plan`.
"""
