"""The plan as data: the graph of trials, their keys, their counts, the work in each. Pure.

It may import only the light modules of `trainables`.
"""
