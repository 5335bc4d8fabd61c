"""Decoded and tokenised data, stored once per machine as memory-mapped Arrow files.

It may import `data.schema`.
"""
