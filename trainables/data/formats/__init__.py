"""What several on-disk formats share (JSON, WordPiece), and formats of a single file.

It may import `data.schema`. Each published format has a sub-package.
"""
