"""Tickets on a network: masks applied to weights and gradients, and the proof that they held.

It may import the module `errors`.
"""
