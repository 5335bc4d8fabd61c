"""SNLI-VE (Xie et al. 2019): does the image entail, contradict or leave open a sentence?

The order of the three labels is the data's: UNITER's and METER's differ. UNITER answers as in VQA,
with binary cross-entropy on soft targets (its code, `train_ve.py`). ViLT's authors have no such
task; it is trained as METER (Dou et al. 2022) is, by cross-entropy on the three classes.
"""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from trainables.data.schema.examples import Data
from trainables.models.base import Backbone
from trainables.spec import TaskSpec
from trainables.tasks import fit
from trainables.tasks.answers import Answers, answering, binary
from trainables.tasks.base import Source


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Answers:
    return over(fit.read(source, spec, backbone), source, spec, backbone)


def over(data: Data, source: Source, spec: TaskSpec, backbone: Backbone) -> Answers:
    """The task on data that is already open."""
    objective = cross_entropy if backbone.architecture == "vilt" else binary
    kinds = {answer: frozenset({answer}) for answer in data.answers}
    return answering(data, source, spec, backbone, objective=objective, kinds=kinds)
