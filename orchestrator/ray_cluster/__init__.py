"""The Ray cluster of a run: joining it, its capacity, its nodes, and helper actors.

It may import `cost`, `sweep` and the modules below them. It imports Ray, but not torch.
"""
