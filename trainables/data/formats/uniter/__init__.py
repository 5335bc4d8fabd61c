"""The format of the UNITER repository: LMDB databases of texts and of regions.

It may import `data.formats`, `data.formats.lxmert` (for GQA's answers) and `data.schema`.
"""
