"""Several processes per trial: launching them, collective operations, the shards of ZeRO.

It may import the module `errors`.
"""
