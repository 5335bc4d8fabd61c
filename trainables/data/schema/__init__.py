"""What every format is read into: folder layouts, records as read, examples as batched.

It may import the light modules of `trainables`.
"""
