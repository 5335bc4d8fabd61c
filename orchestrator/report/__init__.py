"""Build the report of a sweep from its plan and records alone, without Ray, MLflow or torch.

This module itself imports nothing: `write` writes a report, `data` has its tables.
"""
