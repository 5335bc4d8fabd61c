"""Tickets on a network: applying masks to weights and gradients, and checking pruned weights.

It may import the module `errors`.
"""
