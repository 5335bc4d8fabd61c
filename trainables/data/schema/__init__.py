"""The layouts of data folders, and the common form of all data: records as read, examples as
batched.

It may import the modules of `trainables` that do not import torch.
"""
