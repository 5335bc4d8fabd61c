"""The format of the LXMERT repository: TSV of regions, JSON of texts.

It may import `data.formats` and `data.schema`.
"""
