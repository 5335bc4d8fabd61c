"""VQA v2 (Goyal et al. 2017): one of some 3,129 answers to a question, with soft scores.

Heads and loss as published: Linear-GELU-LN-Linear for UNITER and LXMERT, Linear-LN-GELU-Linear for
ViLT; binary cross-entropy. The score is the mean target score of the predicted answer, with VQA's
breakdown by the kind of answer: `yes_no`, `number`, `other`.
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
    numbers = frozenset(answer for answer in data.answers if answer.isdigit())
    other = frozenset(data.answers) - numbers - _YES_NO
    kinds = {"yes_no": _YES_NO, "number": numbers, "other": other}
    return build_answer_task(data, source, spec, backbone, loss_function=summed_bce, kinds=kinds)
