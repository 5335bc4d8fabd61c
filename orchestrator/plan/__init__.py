"""The plan as data: the graph of trials, their keys, counts, and the compute each one takes. Pure.

This package may import only the light modules of `trainables`.
"""
