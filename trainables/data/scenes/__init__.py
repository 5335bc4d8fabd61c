"""Scenes: a generated vision-and-language world, written in the published data formats.

A scene is a small picture of coloured shapes; some scenes hold a grey box that may hide anything.
From one kind of scene come pictures, what a detector with realistic errors makes of them, captions,
and the examples of all seven tasks. `write` puts everything where the readers of UNITER's, LXMERT's
and ViLT's own data look for it.
"""

from trainables.data.scenes.folder import write

__all__ = ["write"]
