"""Local servers, jobs on a Ray cluster, and cluster files rendered from a profile.

This package imports neither `orchestrator` nor `trainables`.
"""
