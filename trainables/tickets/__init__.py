"""Tickets on a network: applying masks to weights and gradients, and proof that they held.

It may import the module `errors`.
"""
