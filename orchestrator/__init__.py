"""Sweepstakes: lottery-ticket sweeps, planned, shared, resumable.

Rooms lie in floors, from `cli` down to `errors`; a room imports only from the floors below its own.
"""

__version__ = "0.1.0"
