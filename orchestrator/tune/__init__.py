"""The Ray Tune adapter: driver, searcher, hooks, worker loop, and the channel between them.

It may import `worker`, `monitor`, `ray_cluster`, `schedule` and what lies below them.
"""
