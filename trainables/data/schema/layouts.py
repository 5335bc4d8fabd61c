"""What planning knows of a data format: its entry, and which published files hold which task.

Paths are relative to a data folder, in which every format has a sub-folder of its own. This module
imports nothing heavy, because planning reads the tables too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from trainables.data.schema.fields import ONE_TEXT_ONE_IMAGE, ExampleSchema
from trainables.errors import DataError
from trainables.models import Modality
from trainables.spec import Scalar

NLVR2_ANSWERS = ("False", "True")


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """A file of examples, and the files of their images; paths are relative to the data folder."""

    texts: str
    images: tuple[str, ...] = ()
    """An image has the regions of all of these; empty if the file `texts` holds the images."""


Corpora: TypeAlias = Mapping[str, tuple[tuple[SplitFiles, ...], tuple[SplitFiles, ...]]]
"""Name of a corpus -> its files to train on and its held-out files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The files of one task in one format. Paths may contain `{OPTION}`."""

    train: tuple[SplitFiles, ...] = ()
    held_out: tuple[SplitFiles, ...] = ()
    corpora: Corpora = field(default_factory=dict)
    """If given, `train` and `held_out` are those of the corpora that the option `corpora` names,
    joined by `+`."""
    records: str = ""
    """What the entries of the files hold; the module of the reader lists its kinds."""
    answers_file: str = ""
    """JSON file of a mapping {answer: label}."""
    answer_names: tuple[str, ...] = ()
    """Names of the labels if no file lists them."""
    unlisted_answers: bool = False
    """Whether LXMERT's files may have answers that `answers_file` lacks; they are left out."""
    vocabulary_file: str = ""
    """BERT's `vocab.txt`; empty if the published texts are tokenised."""
    max_tokens: int = 0
    """Maximum length of a training text. UNITER drops longer texts (its `max_txt_len`, without
    [CLS] and [SEP], by the lengths that the files list); LXMERT and ViLT truncate all texts to it,
    [CLS] and [SEP] included."""
    example: ExampleSchema = ONE_TEXT_ONE_IMAGE
    """What an example holds."""
    classes: bool = False
    """Whether the task needs the detector's class probabilities of each region."""
    extra_words: int = 0
    """Number of token ids past the end of the vocabulary that the texts may contain."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The options that select files, with their defaults."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Option in the paths of `held_out` -> the values for which files were published."""

    def resolve(self, task: str, options: Mapping[str, Scalar]) -> Layout:
        """Return the files under `options`; options that do not select files are ignored.

        Raises DataError if `corpora` names an unknown corpus.
        """
        chosen = {name: str(options.get(name, default)) for name, default in self.options.items()}
        train, held_out = self.train, self.held_out
        if self.corpora:
            names = chosen["corpora"].split("+")
            if not set(names) <= self.corpora.keys():
                allowed = f"some of {', '.join(self.corpora)}, joined by +"
                raise DataError(f"task {task}: corpora = {chosen['corpora']!r}; give {allowed}")
            train = tuple(files for name in names for files in self.corpora[name][0])
            held_out = tuple(files for name in names for files in self.corpora[name][1])
        held_out = tuple(
            SplitFiles(files.texts.format(**chosen), files.images) for files in held_out
        )
        return replace(self, train=train, held_out=held_out, options=chosen)

    def variants(self) -> Iterator[tuple[Mapping[str, Scalar], str, str]]:
        """Yield the options of every published choice of files, with names of what they choose in
        the training and in the held-out files (empty: no choice)."""
        for corpus in self.corpora:
            yield {"corpora": corpus}, f"train {corpus}", f"held out {corpus}"
        for option, values in self.choices.items():
            for value in values:
                yield {option: value}, "train", value
        if not self.corpora and not self.choices:
            yield {}, "train", "held out"

    def files(self) -> tuple[str, ...]:
        """Return the paths of all files of a resolved layout: the data's fingerprint covers
        these."""
        split_files = (*self.train, *self.held_out)
        paths = [self.answers_file, self.vocabulary_file, *(each.texts for each in split_files)]
        paths += [image for files in split_files for image in files.images]
        return tuple(dict.fromkeys(path for path in paths if path))


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatEntry:
    """A format of published data."""

    module: str
    """The module of the reader; it is imported when data are read. It has
    `open_reader(root, layout, *, image_size, patch_size) -> Reader` (see
    `trainables.data.schema.records`), where `layout` is resolved and the sizes are in pixels, 0 for
    a model that takes regions."""
    modality: Modality
    """What the images of an example are read as."""
    layouts: Mapping[str, Layout]
    """Task -> its files in this format, for the tasks that were published in it."""
    description: str = ""
    """One line: what the files are, and whose."""
