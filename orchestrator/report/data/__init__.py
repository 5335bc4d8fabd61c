"""What the report is made of: rows of scores, verdicts, labels, groups of curves.

It may import `store`, `plan` and `sweep`; it draws nothing.
"""
