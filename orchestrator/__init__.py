"""Sweepstakes: lottery-ticket sweeps, planned, shared, resumable.

Its packages form layers, from `cli` down to `errors`; each imports only from layers below its own.
"""

__version__ = "0.1.0"
