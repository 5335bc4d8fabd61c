"""What a sweep costs: prices, estimates in hours and money, the checkpoint interval. Pure.

This package may import `schedule`, `plan` and `sweep`.
"""
