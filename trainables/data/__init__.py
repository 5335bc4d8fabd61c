"""The data of the tasks: opening a split, making batches, checking a folder, fingerprints.

It may import its own packages, from `data.scenes` down to `data.schema`, and `models`.
"""
