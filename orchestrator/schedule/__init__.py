"""Pure scheduling: which trials may start, how they are batched, and how long the rest will take.

It may import `plan`.
"""
