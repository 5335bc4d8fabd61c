"""One training run: the engine, the loop, evaluation, checkpoints, and the checks at its end.

It may import `tasks`, `models`, `tickets`, `pruning`, `optim`, `distributed` and what those may
import.
"""
