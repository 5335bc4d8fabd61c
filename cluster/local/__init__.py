"""Servers that a command starts on this machine: S3, MLflow; and ends only what it started.

It may import the module `errors`.
"""
