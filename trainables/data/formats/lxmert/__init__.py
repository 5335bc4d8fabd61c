"""The format of the LXMERT repository: TSV files of regions, JSON files of texts.

It may import `data.formats` and `data.schema`.
"""
