"""The Ray Tune adapter: driver, searcher, hooks, the worker loop and the channel to it.

It may import `worker`, `monitor`, `ray_cluster`, `schedule` and what lies below them.
"""
