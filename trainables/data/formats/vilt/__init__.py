"""The format of the ViLT repository: Arrow tables of images and texts.

It may import `data.formats` and `data.schema`.
"""
