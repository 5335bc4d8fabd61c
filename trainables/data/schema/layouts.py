"""Which published file is which: per task and format, what is trained on and what is held out.

A data folder has one sub-folder per format: `uniter` (with `txt_db`, `img_db` and the label files),
`lxmert` (the `data` folder of its repository, and `vocab.txt`) and `vilt` (the Arrow tables, and
`vocab.txt`). Nothing heavy is imported here: planning reads this table too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from trainables.errors import DataError
from trainables.models import Format
from trainables.spec import Scalar


@dataclass(frozen=True, slots=True)
class Part:
    """A file of examples, and where their images are; paths below the data folder."""

    texts: str
    images: tuple[str, ...] = ()
    """An example's image is the regions of all of these; empty where `texts` holds the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Paths may hold `{OPTION}`."""

    train: tuple[Part, ...]
    held_out: tuple[Part, ...]
    answers: str = ""
    """File of the labels: {answer: label}."""
    names: tuple[str, ...] = ()
    """The labels' names where no file tells them."""
    vocabulary: str = ""
    """BERT's `vocab.txt`, where the published texts are not tokenised yet."""
    longest: int
    """Of a training text, in tokens: UNITER leaves longer ones out (its `max_txt_len`, without
    [CLS] and [SEP]); LXMERT and ViLT cut all texts to so many, [CLS] and [SEP] included."""
    texts: int = 1
    """Per example."""
    extra_words: int = 0
    """Ids past the vocabulary's end that the texts may use."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What chooses files, with the defaults."""


FIRST_BOXES = frozenset({"re_coco_gt", "re_coco_det", "vcr_gt_train", "vcr_gt_val"})
"""UNITER's image databases that hold an image's first 100 boxes; the others hold 10 to 100, those
with confidence above 0.2."""

YES_NO = ("False", "True")


def _uniter(name: str, *images: str) -> Part:
    return Part(f"uniter/txt_db/{name}.db", tuple(f"uniter/img_db/{image}" for image in images))


def _lxmert(name: str, images: str) -> Part:
    return Part(f"lxmert/{name}.json", (f"lxmert/{images}_obj36.tsv",))


def _vilt(*names: str) -> tuple[Part, ...]:
    return tuple(Part(f"vilt/{name}.arrow") for name in names)


_UniterLayout = partial(Layout, longest=60)
_LxmertLayout = partial(Layout, longest=20, vocabulary="lxmert/vocab.txt")
_ViltLayout = partial(Layout, longest=40, vocabulary="vilt/vocab.txt")

CORPORA: Mapping[str, tuple[tuple[Part, ...], tuple[Part, ...]]] = {
    "coco": (
        (
            _uniter("pretrain_coco_train", "coco_train2014"),
            _uniter("pretrain_coco_restval", "coco_val2014"),
        ),
        (_uniter("pretrain_coco_val", "coco_val2014"),),
    ),
    "vg": ((_uniter("pretrain_vg_train", "vg"),), (_uniter("pretrain_vg_val", "vg"),)),
    "cc": (
        (_uniter("conceptual_caption_train", "gcc_train"),),
        (_uniter("conceptual_caption_val", "gcc_val"),),
    ),
    "sbu": (
        (_uniter("sbu_caption_train", "sbu"),),
        (_uniter("sbu_caption_val", "sbu"),),
    ),
}
"""UNITER's pre-training corpora, each with what it trains on and holds out (the authors'
`config/pretrain-alldata-base-8gpu.json`; `pretrain-indomain-*.json` has the first two)."""

LAYOUTS: Mapping[tuple[str, Format], Layout] = {
    ("vqa", "uniter"): _UniterLayout(
        train=(
            _uniter("vqa_train", "coco_train2014"),
            _uniter("vqa_trainval", "coco_val2014"),
            _uniter("vqa_vg", "vg"),
        ),
        held_out=(_uniter("vqa_devval", "coco_val2014"),),
        answers="uniter/ans2label.json",
    ),
    ("vqa", "lxmert"): _LxmertLayout(
        train=(
            _lxmert("vqa/train", "mscoco_imgfeat/train2014"),
            _lxmert("vqa/nominival", "mscoco_imgfeat/val2014"),
        ),
        held_out=(_lxmert("vqa/minival", "mscoco_imgfeat/val2014"),),
        answers="lxmert/vqa/trainval_ans2label.json",
    ),
    ("vqa", "vilt"): _ViltLayout(
        train=_vilt("vqav2_train", "vqav2_trainable_val"),
        held_out=_vilt("vqav2_rest_val"),
    ),
    # UNITER's authors published no GQA; these databases are built like those of VQA.
    ("gqa", "uniter"): _UniterLayout(
        train=(_uniter("gqa_train", "vg"), _uniter("gqa_valid", "vg")),
        held_out=(_uniter("gqa_testdev", "gqa_testdev"),),
        answers="uniter/gqa_ans2label.json",
    ),
    ("gqa", "lxmert"): _LxmertLayout(
        train=(
            _lxmert("gqa/train", "vg_gqa_imgfeat/vg_gqa"),
            _lxmert("gqa/valid", "vg_gqa_imgfeat/vg_gqa"),
        ),
        held_out=(_lxmert("gqa/testdev", "vg_gqa_imgfeat/gqa_testdev"),),
        answers="lxmert/gqa/trainval_ans2label.json",
    ),
    ("nlvr2", "uniter"): _UniterLayout(
        train=(_uniter("nlvr2_train", "nlvr2_train"),),
        held_out=(_uniter("nlvr2_dev", "nlvr2_dev"),),
        names=YES_NO,
    ),
    ("nlvr2", "lxmert"): _LxmertLayout(
        train=(_lxmert("nlvr2/train", "nlvr2_imgfeat/train"),),
        held_out=(_lxmert("nlvr2/valid", "nlvr2_imgfeat/valid"),),
        names=YES_NO,
    ),
    # ViLT's own code validates on dev and test1 together; this is dev alone, as the others.
    ("nlvr2", "vilt"): _ViltLayout(
        train=_vilt("nlvr2_train"), held_out=_vilt("nlvr2_dev"), names=YES_NO
    ),
    ("vcr", "uniter"): _UniterLayout(
        train=(_uniter("vcr_train", "vcr_gt_train", "vcr_train"),),
        held_out=(_uniter("vcr_val", "vcr_gt_val", "vcr_val"),),
        longest=220,
        texts=8,
        extra_words=81,
    ),
    ("refcoco", "uniter"): _UniterLayout(
        train=(_uniter("refcoco+_train", "re_coco_gt"),),
        held_out=(_uniter("refcoco+_val", "re_coco_det"),),
    ),
    ("snli_ve", "uniter"): _UniterLayout(
        train=(_uniter("ve_train", "flickr30k"),),
        held_out=(_uniter("ve_dev", "flickr30k"),),
        names=("contradiction", "entailment", "neutral"),
    ),
    # The tables are METER's: ViLT's authors published none.
    ("snli_ve", "vilt"): _ViltLayout(
        train=_vilt("snli_train"),
        held_out=_vilt("snli_dev"),
        names=("contradiction", "neutral", "entailment"),
    ),
    ("retrieval", "uniter"): _UniterLayout(
        train=(_uniter("itm_flickr30k_train", "flickr30k"),),
        held_out=(_uniter("itm_flickr30k_{split}", "flickr30k"),),
        options={"split": "val"},
    ),
    # ViLT's own code trains on val too and validates on test.
    ("retrieval", "vilt"): _ViltLayout(
        train=_vilt("f30k_caption_karpathy_train"),
        held_out=_vilt("f30k_caption_karpathy_{split}"),
        options={"split": "val"},
    ),
    ("pretraining", "uniter"): _UniterLayout(
        train=tuple(part for train, _ in CORPORA.values() for part in train),
        held_out=tuple(part for _, held_out in CORPORA.values() for part in held_out),
        options={"corpora": "+".join(CORPORA)},
    ),
}


def layout(task: str, form: Format, options: Mapping[str, Scalar]) -> Layout:
    """The files of a task with `options` put in; those that choose no file do not matter.

    Raises DataError if the task has no data in that format, or `corpora` names an unknown one.
    """
    if (task, form) not in LAYOUTS:
        known = ", ".join(sorted(name for name, each in LAYOUTS if each == form))
        raise DataError(f"task {task}: has no data in the format {form}; tasks with: {known}")
    found = LAYOUTS[task, form]
    chosen = {name: str(options.get(name, default)) for name, default in found.options.items()}
    if "corpora" in chosen:
        names = chosen["corpora"].split("+")
        if not set(names) <= CORPORA.keys():
            allowed = f"some of {', '.join(CORPORA)}, joined by +"
            raise DataError(f"task {task}: corpora = {chosen['corpora']!r}; give {allowed}")
        train, held_out = zip(*(CORPORA[name] for name in names), strict=True)
        found = replace(found, train=sum(train, ()), held_out=sum(held_out, ()))
    held = tuple(Part(part.texts.format(**chosen), part.images) for part in found.held_out)
    return replace(found, held_out=held, options=chosen)


def files_of(task: str, form: Format, options: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Paths below the data folder of all that a task reads: what its data's fingerprint covers.
    Raises DataError as `layout` does."""
    found = layout(task, form, options)
    parts = (*found.train, *found.held_out)
    named = [found.answers, found.vocabulary, *(part.texts for part in parts)]
    named += [image for part in parts for image in part.images]
    return tuple(dict.fromkeys(path for path in named if path))
