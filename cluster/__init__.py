"""Servers of this machine, jobs on a Ray cluster, and clusters from a profile.

It imports neither `orchestrator` nor `trainables`.
"""
