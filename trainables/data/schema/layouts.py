"""The published files of each task and format, and which of them are for training or held out.

A data folder has one sub-folder per format: `uniter` (with `txt_db`, `img_db` and the label files),
`lxmert` (the `data` folder of its repository, and `vocab.txt`) and `vilt` (the Arrow tables, and
`vocab.txt`). This module imports nothing heavy, because planning reads the table too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from trainables.errors import DataError
from trainables.models import Format
from trainables.spec import Scalar


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """A file of examples, and the files of their images; paths are relative to the data folder."""

    texts: str
    images: tuple[str, ...] = ()
    """An image has the regions of all of these; empty if the file `texts` holds the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The files of one task in one format. Paths may contain `{OPTION}`."""

    train: tuple[SplitFiles, ...]
    held_out: tuple[SplitFiles, ...]
    answers_file: str = ""
    """JSON file of a mapping {answer: label}."""
    answer_names: tuple[str, ...] = ()
    """Names of the labels if no file lists them."""
    vocabulary_file: str = ""
    """BERT's `vocab.txt`; empty if the published texts are tokenised."""
    max_tokens: int
    """Maximum length of a training text. UNITER drops longer texts (its `max_txt_len`, without
    [CLS] and [SEP]); LXMERT and ViLT truncate all texts to it, [CLS] and [SEP] included."""
    texts_per_example: int = 1
    extra_words: int = 0
    """Number of token ids past the end of the vocabulary that the texts may contain."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The options that select files, with their defaults."""


FIRST_BOXES_DATABASES = frozenset({"re_coco_gt", "re_coco_det", "vcr_gt_train", "vcr_gt_val"})
"""UNITER's image databases that have the first 100 boxes of an image; the others have the 10 to 100
boxes with confidence above 0.2."""

NLVR2_ANSWERS = ("False", "True")


def _uniter(name: str, *images: str) -> SplitFiles:
    return SplitFiles(
        f"uniter/txt_db/{name}.db", tuple(f"uniter/img_db/{image}" for image in images)
    )


def _lxmert(name: str, images: str) -> SplitFiles:
    return SplitFiles(f"lxmert/{name}.json", (f"lxmert/{images}_obj36.tsv",))


def _vilt(*names: str) -> tuple[SplitFiles, ...]:
    return tuple(SplitFiles(f"vilt/{name}.arrow") for name in names)


_UniterLayout = partial(Layout, max_tokens=60)
_LxmertLayout = partial(Layout, max_tokens=20, vocabulary_file="lxmert/vocab.txt")
_ViltLayout = partial(Layout, max_tokens=40, vocabulary_file="vilt/vocab.txt")

CORPORA: Mapping[str, tuple[tuple[SplitFiles, ...], tuple[SplitFiles, ...]]] = {
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
"""UNITER's pre-training corpora, each as (train, held out) (the authors'
`config/pretrain-alldata-base-8gpu.json`; `pretrain-indomain-*.json` has the first two)."""

LAYOUTS: Mapping[tuple[str, Format], Layout] = {
    ("vqa", "uniter"): _UniterLayout(
        train=(
            _uniter("vqa_train", "coco_train2014"),
            _uniter("vqa_trainval", "coco_val2014"),
            _uniter("vqa_vg", "vg"),
        ),
        held_out=(_uniter("vqa_devval", "coco_val2014"),),
        answers_file="uniter/ans2label.json",
    ),
    ("vqa", "lxmert"): _LxmertLayout(
        train=(
            _lxmert("vqa/train", "mscoco_imgfeat/train2014"),
            _lxmert("vqa/nominival", "mscoco_imgfeat/val2014"),
        ),
        held_out=(_lxmert("vqa/minival", "mscoco_imgfeat/val2014"),),
        answers_file="lxmert/vqa/trainval_ans2label.json",
    ),
    ("vqa", "vilt"): _ViltLayout(
        train=_vilt("vqav2_train", "vqav2_trainable_val"),
        held_out=_vilt("vqav2_rest_val"),
    ),
    # UNITER's authors did not publish GQA; these databases are built like those of VQA.
    ("gqa", "uniter"): _UniterLayout(
        train=(_uniter("gqa_train", "vg"), _uniter("gqa_valid", "vg")),
        held_out=(_uniter("gqa_testdev", "gqa_testdev"),),
        answers_file="uniter/gqa_ans2label.json",
    ),
    ("gqa", "lxmert"): _LxmertLayout(
        train=(
            _lxmert("gqa/train", "vg_gqa_imgfeat/vg_gqa"),
            _lxmert("gqa/valid", "vg_gqa_imgfeat/vg_gqa"),
        ),
        held_out=(_lxmert("gqa/testdev", "vg_gqa_imgfeat/gqa_testdev"),),
        answers_file="lxmert/gqa/trainval_ans2label.json",
    ),
    ("nlvr2", "uniter"): _UniterLayout(
        train=(_uniter("nlvr2_train", "nlvr2_train"),),
        held_out=(_uniter("nlvr2_dev", "nlvr2_dev"),),
        answer_names=NLVR2_ANSWERS,
    ),
    ("nlvr2", "lxmert"): _LxmertLayout(
        train=(_lxmert("nlvr2/train", "nlvr2_imgfeat/train"),),
        held_out=(_lxmert("nlvr2/valid", "nlvr2_imgfeat/valid"),),
        answer_names=NLVR2_ANSWERS,
    ),
    # ViLT's code validates on dev and test1 together; here it is dev alone, as in the others.
    ("nlvr2", "vilt"): _ViltLayout(
        train=_vilt("nlvr2_train"), held_out=_vilt("nlvr2_dev"), answer_names=NLVR2_ANSWERS
    ),
    ("vcr", "uniter"): _UniterLayout(
        train=(_uniter("vcr_train", "vcr_gt_train", "vcr_train"),),
        held_out=(_uniter("vcr_val", "vcr_gt_val", "vcr_val"),),
        max_tokens=220,
        texts_per_example=8,
        extra_words=81,
    ),
    ("refcoco", "uniter"): _UniterLayout(
        train=(_uniter("refcoco+_train", "re_coco_gt"),),
        held_out=(_uniter("refcoco+_val", "re_coco_det"),),
    ),
    ("snli_ve", "uniter"): _UniterLayout(
        train=(_uniter("ve_train", "flickr30k"),),
        held_out=(_uniter("ve_dev", "flickr30k"),),
        answer_names=("contradiction", "entailment", "neutral"),
    ),
    # METER's tables: ViLT's authors did not publish any.
    ("snli_ve", "vilt"): _ViltLayout(
        train=_vilt("snli_train"),
        held_out=_vilt("snli_dev"),
        answer_names=("contradiction", "neutral", "entailment"),
    ),
    ("retrieval", "uniter"): _UniterLayout(
        train=(_uniter("itm_flickr30k_train", "flickr30k"),),
        held_out=(_uniter("itm_flickr30k_{split}", "flickr30k"),),
        options={"split": "val"},
    ),
    # ViLT's code also trains on val, and validates on test.
    ("retrieval", "vilt"): _ViltLayout(
        train=_vilt("f30k_caption_karpathy_train"),
        held_out=_vilt("f30k_caption_karpathy_{split}"),
        options={"split": "val"},
    ),
    ("pretraining", "uniter"): _UniterLayout(
        train=tuple(files for train, _ in CORPORA.values() for files in train),
        held_out=tuple(files for _, held_out in CORPORA.values() for files in held_out),
        options={"corpora": "+".join(CORPORA)},
    ),
}


def resolve_layout(task: str, file_format: Format, options: Mapping[str, Scalar]) -> Layout:
    """Return the files of a task under `options`; options that do not select files are ignored.

    Raises DataError if the task has no data in that format, or `corpora` names an unknown corpus.
    """
    if (task, file_format) not in LAYOUTS:
        known = ", ".join(sorted(name for name, each in LAYOUTS if each == file_format))
        raise DataError(
            f"task {task}: has no data in the format {file_format}; tasks with: {known}"
        )
    layout = LAYOUTS[task, file_format]
    chosen = {name: str(options.get(name, default)) for name, default in layout.options.items()}
    if "corpora" in chosen:
        names = chosen["corpora"].split("+")
        if not set(names) <= CORPORA.keys():
            allowed = f"some of {', '.join(CORPORA)}, joined by +"
            raise DataError(f"task {task}: corpora = {chosen['corpora']!r}; give {allowed}")
        trains, held_outs = zip(*(CORPORA[name] for name in names), strict=True)
        layout = replace(layout, train=sum(trains, ()), held_out=sum(held_outs, ()))
    held_out = tuple(
        SplitFiles(files.texts.format(**chosen), files.images) for files in layout.held_out
    )
    return replace(layout, held_out=held_out, options=chosen)


def task_files(task: str, file_format: Format, options: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return the paths below the data folder of all files that a task reads: its data fingerprint
    covers these. Raises DataError as `resolve_layout` does."""
    layout = resolve_layout(task, file_format, options)
    split_files = (*layout.train, *layout.held_out)
    paths = [layout.answers_file, layout.vocabulary_file, *(files.texts for files in split_files)]
    paths += [image for files in split_files for image in files.images]
    return tuple(dict.fromkeys(path for path in paths if path))
