"""What the command line and Python code call: a workspace and a session. It prints nothing.

It may import every room but `cli`; only `api` and `cli` import `cluster`.
"""
