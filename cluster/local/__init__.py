"""Local servers, S3 and MLflow, that a command starts on this machine.

This package may import the module `errors`.
"""
