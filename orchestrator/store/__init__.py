"""Tickets, records, weights, logs and leases in S3, and the Parquet format of tickets.

It may import `plan.keys` and `sweep.config`; no Ray, no torch.
"""
