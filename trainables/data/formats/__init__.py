"""The formats of published data, by name, and which of them a model reads a task's data in.

To add one, write `trainables/data/formats/NAME/` with the entry `FORMAT` in `__init__.py` and the
reader beside it, and add the entry to `FORMATS`. A format from outside is one file with both, or an
entry point (see `trainables.registry`). This module imports nothing heavy, because planning reads
it too. It may import `data.schema` and `models`.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainables.data.formats import lxmert, uniter, vilt
from trainables.data.schema.layouts import FormatEntry, Layout
from trainables.errors import DataError
from trainables.models import MODELS
from trainables.registry import Registry
from trainables.spec import Scalar

__all__ = [
    "FORMATS",
    "FormatEntry",
    "Layout",
    "choose_format",
    "default_format",
    "resolve_layout",
    "task_files",
]

FORMATS: Registry[FormatEntry] = Registry(
    FormatEntry,
    group="sweepstakes.formats",
    attribute="FORMAT",
    builtin={"uniter": uniter.FORMAT, "lxmert": lxmert.FORMAT, "vilt": vilt.FORMAT},
)


def default_format(task: str, architecture: str) -> str:
    """Return the first of a model's formats that holds the task; empty if none does."""
    return next((name for name in MODELS[architecture].formats if task in _layouts(name)), "")


def choose_format(task: str, architecture: str, wanted: str = "") -> str:
    """Return the format in which a model reads the data of a published task: `wanted`, or else the
    first of the model's formats that holds the task.

    Raises DataError if there is none, or if the model does not read what `wanted` yields.
    """
    model = MODELS[architecture]
    if not wanted:
        usual = default_format(task, architecture)
        if not usual:
            raise DataError(
                f"task {task}: has no data in a format of {architecture}"
                f" ({', '.join(model.formats) or 'it names none'}); {_formats_with(task)}"
            )
        return usual
    if task not in _layouts(wanted):
        raise DataError(f"task {task}: has no data in the format {wanted}; {_formats_with(task)}")
    modality = FORMATS[wanted].modality
    if modality != model.modality:
        raise DataError(
            f"format {wanted} holds {modality}, {architecture} reads {model.modality}; use another"
            " format or a model that fits"
        )
    return wanted


def resolve_layout(task: str, file_format: str, options: Mapping[str, Scalar]) -> Layout:
    """Return the files of a task under `options`; options that do not select files are ignored.

    Raises DataError if the task has no data in that format, or an option has an unknown value.
    """
    layouts = _layouts(file_format)
    if task not in layouts:
        raise DataError(
            f"task {task}: has no data in the format {file_format}; {_formats_with(task)}"
        )
    return layouts[task].resolve(task, options)


def task_files(task: str, file_format: str, options: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return the paths below the data folder of all files that a task reads: its data fingerprint
    covers these. Raises DataError as `resolve_layout` does."""
    return resolve_layout(task, file_format, options).files()


def _layouts(file_format: str) -> Mapping[str, Layout]:
    return FORMATS[file_format].layouts if file_format in FORMATS else {}


def _formats_with(task: str) -> str:
    names = [name for name, entry in FORMATS.loadable().items() if task in entry.layouts]
    return f"formats with: {', '.join(names) or 'none'}"
