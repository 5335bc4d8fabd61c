"""Tickets, records, weights, logs and leases in S3, and the Parquet format of tickets.

It may import `plan.keys`, `sweep.config` and the modules of the top level, but not Ray or torch.
"""
