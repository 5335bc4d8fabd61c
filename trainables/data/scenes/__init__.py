"""Scenes: generated vision-and-language data, written in the published data formats.

A scene is a small set of coloured shapes, its *things*; some scenes have a grey box that may hide
anything. Each scene gives a picture, the regions that a detector with realistic errors finds in it,
captions, and examples of all tasks. `write_scenes` writes them to the files that the readers of
UNITER's, LXMERT's and ViLT's data expect.
"""

from trainables.data.scenes.folder import write_scenes

__all__ = ["write_scenes"]
