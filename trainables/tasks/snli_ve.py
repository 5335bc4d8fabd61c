"""SNLI-VE (Xie et al. 2019): does the image entail, contradict or leave open a sentence?

The three labels are in the order of the data, which differs between UNITER and METER. UNITER is
trained as in VQA, with binary cross-entropy on soft targets (its code, `train_ve.py`). ViLT's
authors did not publish this task; ViLT is trained as METER (Dou et al. 2022) is, with cross-entropy
on the three classes.
"""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from trainables.data.schema.examples import Data
from trainables.models.base import Backbone
from trainables.spec import TaskSpec
from trainables.tasks import common
from trainables.tasks.answers import AnswerTask, build_answer_task, summed_bce
from trainables.tasks.base import TaskSource


def open_task(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> AnswerTask:
    return task_from_data(common.open_task_data(source, spec, backbone), source, spec, backbone)


def task_from_data(
    data: Data, source: TaskSource, spec: TaskSpec, backbone: Backbone
) -> AnswerTask:
    """Build the task on data that are already open."""
    loss_function = cross_entropy if backbone.architecture == "vilt" else summed_bce
    kinds = {answer: frozenset({answer}) for answer in data.answers}
    return build_answer_task(data, source, spec, backbone, loss_function=loss_function, kinds=kinds)
