"""Decoded and tokenised data, kept once per machine as memory-mapped Arrow files.

It may import `data.schema`.
"""
