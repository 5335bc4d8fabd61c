"""The Ray cluster under a run: joining it, its capacity, its nodes, small actors on them.

It may import `cost`, `sweep` and the modules beside the rooms. Ray is loaded here, torch is not.
"""
