"""The format of the ViLT repository: Arrow tables of images and texts.

It may import `data.formats` and `data.schema`. This module imports nothing heavy, because planning
reads it too.
"""

from __future__ import annotations

from functools import partial

from trainables.data.schema.fields import PAIR_OF_IMAGES, SOFT_TARGETS
from trainables.data.schema.layouts import NLVR2_ANSWERS, FormatEntry, Layout, SplitFiles


def _files(*names: str) -> tuple[SplitFiles, ...]:
    return tuple(SplitFiles(f"vilt/{name}.arrow") for name in names)


_Layout = partial(Layout, max_tokens=40, vocabulary_file="vilt/vocab.txt")

FORMAT = FormatEntry(
    module="trainables.data.formats.vilt.reader",
    modality="pixels",
    description="Arrow tables of images and texts (Kim et al. 2021), in `vilt`",
    layouts={
        "vqa": _Layout(
            records="vqa",
            train=_files("vqav2_train", "vqav2_trainable_val"),
            held_out=_files("vqav2_rest_val"),
            example=SOFT_TARGETS,
        ),
        # ViLT's code validates on dev and test1 together; here it is dev alone, as in the others.
        "nlvr2": _Layout(
            records="nlvr2",
            train=_files("nlvr2_train"),
            held_out=_files("nlvr2_dev"),
            answer_names=NLVR2_ANSWERS,
            example=PAIR_OF_IMAGES,
        ),
        # METER's tables: ViLT's authors did not publish any.
        "snli_ve": _Layout(
            records="snli",
            train=_files("snli_train"),
            held_out=_files("snli_dev"),
            answer_names=("contradiction", "neutral", "entailment"),
            example=SOFT_TARGETS,
        ),
        # ViLT's code also trains on val, and validates on test.
        "retrieval": _Layout(
            records="caption",
            train=_files("f30k_caption_karpathy_train"),
            held_out=_files("f30k_caption_karpathy_{split}"),
            options={"split": "val"},
            choices={"split": ("val", "test")},
        ),
    },
)
