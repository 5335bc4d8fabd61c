"""One file per section of the report: its tables, its figures, its text.

It may import `report.page` and `report.data`.
"""
