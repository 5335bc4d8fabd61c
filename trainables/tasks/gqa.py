"""GQA (Hudson and Manning 2019): one of some 1,842 answers to a compositional question.

As VQA (see `trainables.tasks.vqa`), with one answer per question: the score is the share that match
it exactly. A question whose answer is not in the vocabulary has no target and is never won.
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
    kinds = {"yes_no": _YES_NO, "other": frozenset(data.answers) - _YES_NO}
    return answering(data, source, spec, backbone, objective=binary, kinds=kinds)
