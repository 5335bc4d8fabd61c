"""The sweep file: its keys and defaults, reading it, resolving the models and data it names. Pure.

It may import the modules beside the rooms and the light modules of `trainables`.
"""
