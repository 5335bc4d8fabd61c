"""Tickets and weights in formats that other tools can read.

It may import `store` and `plan`, and the loaders of `trainables`.
"""
