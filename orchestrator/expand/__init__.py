"""Expand a sweep into its plan: one module per source of tickets, and the builder they share. Pure.

This package may import `plan` and `sweep`.
"""
