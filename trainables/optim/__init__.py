"""Optimizers and learning-rate schedules.

It may import `distributed` and the modules `spec`, `errors` and `seeds`.
"""
