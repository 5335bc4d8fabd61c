"""Sections of the report: their tables, figures and text.

This package may import `report.page` and `report.data`.
"""
