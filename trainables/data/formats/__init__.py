"""What several on-disk formats share (JSON, WordPiece), and formats of a single file.

It may import `data.schema`; one room per published format lies beside these files.
"""
