"""Scenes: generated vision-and-language data, written in the published data formats.

A scene is a small picture of coloured shapes; some scenes have a grey box that may hide anything.
From the scenes come pictures, the regions that a detector with realistic errors finds in them,
captions, and the examples of all seven tasks. `write_scenes` writes them to the files that the
readers of UNITER's, LXMERT's and ViLT's data expect.
"""

from trainables.data.scenes.folder import write_scenes

__all__ = ["write_scenes"]
