"""The command line: it turns options into calls of `api`, and results into text and exit codes.

It may import every other package, and only `__main__` imports it.
"""
