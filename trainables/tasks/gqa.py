"""GQA (Hudson and Manning 2019): one of some 1,842 answers to a compositional question.

It works like VQA (see `trainables.tasks.vqa`), with one answer per question: the score is the share
of exact matches. A question whose answer is not in the vocabulary has no target and always counts
as wrong.
"""

from __future__ import annotations

from trainables.data.schema.examples import Data
from trainables.models.base import Backbone
from trainables.spec import TaskSpec
from trainables.tasks import common
from trainables.tasks.answers import AnswerTask, build_answer_task, summed_bce
from trainables.tasks.base import TaskSource

_YES_NO = frozenset({"yes", "no"})


def open_task(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> AnswerTask:
    return task_from_data(common.open_task_data(source, spec, backbone), source, spec, backbone)


def task_from_data(
    data: Data, source: TaskSource, spec: TaskSpec, backbone: Backbone
) -> AnswerTask:
    """Build the task on data that are already open."""
    kinds = {"yes_no": _YES_NO, "other": frozenset(data.answers) - _YES_NO}
    return build_answer_task(data, source, spec, backbone, loss_function=summed_bce, kinds=kinds)
