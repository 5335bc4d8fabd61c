"""The sweep file: its keys and defaults, reading it, resolving the models and data it names. Pure.

This package may import the modules next to the packages and the light modules of `trainables`.
"""
