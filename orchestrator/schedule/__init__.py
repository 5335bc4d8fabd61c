"""Which trials may start now, in which batches, and how long the rest will take. Pure.

It may import `plan`.
"""
