"""What the command line and Python code call: a workspace and the operations on a sweep.

It prints nothing, except for the progress of a run on the console that the caller passes in. It may
import every package but `cli`; only `api` and `cli` import `cluster`.
"""
