"""The format of the LXMERT repository: TSV files of regions, JSON files of texts.

It may import `data.formats` and `data.schema`. This module imports nothing heavy, because planning
reads it too.
"""

from __future__ import annotations

from functools import partial

from trainables.data.schema.fields import PAIR_OF_IMAGES, SOFT_TARGETS
from trainables.data.schema.layouts import NLVR2_ANSWERS, FormatEntry, Layout, SplitFiles


def _files(name: str, images: str) -> SplitFiles:
    return SplitFiles(f"lxmert/{name}.json", (f"lxmert/{images}_obj36.tsv",))


_Layout = partial(Layout, max_tokens=20, vocabulary_file="lxmert/vocab.txt")

FORMAT = FormatEntry(
    module="trainables.data.formats.lxmert.reader",
    modality="regions",
    description="TSV files of regions and JSON files of texts (Tan and Bansal 2019), in `lxmert`",
    layouts={
        "vqa": _Layout(
            records="answers",
            train=(
                _files("vqa/train", "mscoco_imgfeat/train2014"),
                _files("vqa/nominival", "mscoco_imgfeat/val2014"),
            ),
            held_out=(_files("vqa/minival", "mscoco_imgfeat/val2014"),),
            answers_file="lxmert/vqa/trainval_ans2label.json",
            example=SOFT_TARGETS,
        ),
        "gqa": _Layout(
            records="answers",
            unlisted_answers=True,
            train=(
                _files("gqa/train", "vg_gqa_imgfeat/vg_gqa"),
                _files("gqa/valid", "vg_gqa_imgfeat/vg_gqa"),
            ),
            held_out=(_files("gqa/testdev", "vg_gqa_imgfeat/gqa_testdev"),),
            answers_file="lxmert/gqa/trainval_ans2label.json",
            example=SOFT_TARGETS,
        ),
        "nlvr2": _Layout(
            records="pair",
            train=(_files("nlvr2/train", "nlvr2_imgfeat/train"),),
            held_out=(_files("nlvr2/valid", "nlvr2_imgfeat/valid"),),
            answer_names=NLVR2_ANSWERS,
            example=PAIR_OF_IMAGES,
        ),
    },
)
