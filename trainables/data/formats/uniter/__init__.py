"""The format of the UNITER repository: LMDB databases of regions and of tokenised texts.

It may import `data.formats` and `data.schema`. This module imports nothing heavy, because planning
reads it too.
"""

from __future__ import annotations

from functools import partial

from trainables.data.schema.fields import PAIR_OF_IMAGES, SOFT_TARGETS, ExampleSchema, Field
from trainables.data.schema.layouts import (
    NLVR2_ANSWERS,
    Corpora,
    FormatEntry,
    Layout,
    SplitFiles,
)

FIRST_BOXES_DATABASES = frozenset({"re_coco_gt", "re_coco_det", "vcr_gt_train", "vcr_gt_val"})
"""Image databases that have the first 100 boxes of an image; the others have the 10 to 100 boxes
with confidence above 0.2."""


def _files(name: str, *images: str) -> SplitFiles:
    return SplitFiles(
        f"uniter/txt_db/{name}.db", tuple(f"uniter/img_db/{image}" for image in images)
    )


_Layout = partial(Layout, max_tokens=60)

CORPORA: Corpora = {
    "coco": (
        (
            _files("pretrain_coco_train", "coco_train2014"),
            _files("pretrain_coco_restval", "coco_val2014"),
        ),
        (_files("pretrain_coco_val", "coco_val2014"),),
    ),
    "vg": ((_files("pretrain_vg_train", "vg"),), (_files("pretrain_vg_val", "vg"),)),
    "cc": (
        (_files("conceptual_caption_train", "gcc_train"),),
        (_files("conceptual_caption_val", "gcc_val"),),
    ),
    "sbu": (
        (_files("sbu_caption_train", "sbu"),),
        (_files("sbu_caption_val", "sbu"),),
    ),
}
"""The pre-training corpora (the authors' `config/pretrain-alldata-base-8gpu.json`;
`pretrain-indomain-*.json` has the first two)."""

FORMAT = FormatEntry(
    module="trainables.data.formats.uniter.reader",
    modality="regions",
    description="LMDB databases of regions and tokenised texts (Chen et al. 2020), in `uniter`",
    layouts={
        "vqa": _Layout(
            records="answers",
            train=(
                _files("vqa_train", "coco_train2014"),
                _files("vqa_trainval", "coco_val2014"),
                _files("vqa_vg", "vg"),
            ),
            held_out=(_files("vqa_devval", "coco_val2014"),),
            answers_file="uniter/ans2label.json",
            example=SOFT_TARGETS,
        ),
        # UNITER's authors did not publish GQA; these databases are built like those of VQA.
        "gqa": _Layout(
            records="answers",
            train=(_files("gqa_train", "vg"), _files("gqa_valid", "vg")),
            held_out=(_files("gqa_testdev", "gqa_testdev"),),
            answers_file="uniter/gqa_ans2label.json",
            example=SOFT_TARGETS,
        ),
        "nlvr2": _Layout(
            records="pair",
            train=(_files("nlvr2_train", "nlvr2_train"),),
            held_out=(_files("nlvr2_dev", "nlvr2_dev"),),
            answer_names=NLVR2_ANSWERS,
            example=PAIR_OF_IMAGES,
        ),
        "vcr": _Layout(
            records="choices",
            train=(_files("vcr_train", "vcr_gt_train", "vcr_train"),),
            held_out=(_files("vcr_val", "vcr_gt_val", "vcr_val"),),
            # About 55 words of question and longest answer: the files list four times their sum.
            max_tokens=220,
            # Four answers, four rationales, and the right one of each; whether Q->A and QA->R are
            # trained on.
            example=ExampleSchema(
                texts=8,
                labels=Field(dtype="int32", shape=(2,), low=0, high=3),
                scores=Field(dtype="float32", shape=(2,), low=0, high=1),
            ),
            extra_words=81,
        ),
        "refcoco": _Layout(
            records="expression",
            train=(_files("refcoco+_train", "re_coco_gt"),),
            held_out=(_files("refcoco+_val", "re_coco_det"),),
            # The object's region, in training, and its box with the image's width and height.
            example=ExampleSchema(
                labels=Field(dtype="int32", shape=("objects",), low=0),
                scores=Field(dtype="float32", shape=(6,)),
            ),
        ),
        "snli_ve": _Layout(
            records="answers",
            train=(_files("ve_train", "flickr30k"),),
            held_out=(_files("ve_dev", "flickr30k"),),
            answer_names=("contradiction", "entailment", "neutral"),
            example=SOFT_TARGETS,
        ),
        "retrieval": _Layout(
            records="caption",
            train=(_files("itm_flickr30k_train", "flickr30k"),),
            held_out=(_files("itm_flickr30k_{split}", "flickr30k"),),
            options={"split": "val"},
            choices={"split": ("val", "test")},
        ),
        "pretraining": _Layout(
            records="caption", corpora=CORPORA, options={"corpora": "+".join(CORPORA)}, classes=True
        ),
    },
)
