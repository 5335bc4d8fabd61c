"""How the report looks: the HTML page, its style, curves, heat maps, tables.

It may import `report.data`.
"""
