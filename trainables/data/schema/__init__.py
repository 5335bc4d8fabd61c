"""What every format is read into: layouts of folders, records as read, examples as batched.

It may import the light modules of `trainables`.
"""
