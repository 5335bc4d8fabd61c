"""From a sweep to its plan: one file per source of tickets, and the builder that they share. Pure.

It may import `plan` and `sweep`.
"""
