"""VQA v2 (Goyal et al. 2017): one of some 3,129 answers to a question, with soft scores.

Heads and loss as published: Linear-GELU-LN-Linear for UNITER and LXMERT, Linear-LN-GELU-Linear for
ViLT; binary cross-entropy. The score is the mean target score of the answer given, with VQA's
break-down told by the answer: `yes_no`, `number`, `other`.
"""

from __future__ import annotations

from trainables.data.schema.examples import Data
from trainables.models.base import Backbone
from trainables.spec import TaskSpec
from trainables.tasks import fit
from trainables.tasks.answers import Answers, answering, binary
from trainables.tasks.base import Source

_YES_NO = frozenset({"yes", "no"})


def open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Answers:
    return over(fit.read(source, spec, backbone), source, spec, backbone)


def over(data: Data, source: Source, spec: TaskSpec, backbone: Backbone) -> Answers:
    """The task on data that is already open."""
    numbers = frozenset(answer for answer in data.answers if answer.isdigit())
    other = frozenset(data.answers) - numbers - _YES_NO
    kinds = {"yes_no": _YES_NO, "number": numbers, "other": other}
    return answering(data, source, spec, backbone, objective=binary, kinds=kinds)
