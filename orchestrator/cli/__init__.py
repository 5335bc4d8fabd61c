"""The command line: it turns options into calls of `api`, and results into text and exit codes.

It may import every other room, and is imported only by `__main__`.
"""
