"""Presentation of the report: the HTML page, its style, curves, heat maps, tables.

This package may import `report.data`.
"""
