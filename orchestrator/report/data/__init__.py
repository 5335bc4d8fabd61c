"""Data of the report: tables of scores, verdicts, formatted text, groups of curves.

This package may import `store`, `plan` and `sweep`. It draws nothing.
"""
