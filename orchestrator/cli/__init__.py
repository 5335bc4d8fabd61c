"""The command line: options in, text and exit codes out; the work itself is in `api`.

It may import every other room, and is imported only by `__main__`.
"""
