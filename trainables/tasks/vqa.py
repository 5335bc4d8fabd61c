"""VQA v2 (Goyal et al. 2017): one of some 3,129 answers to a question, with soft scores.

Heads and loss as published: Linear-GELU-LN-Linear for UNITER and LXMERT, Linear-LN-GELU-Linear for
ViLT; binary cross-entropy. The score is the mean target score of the predicted answer, with VQA's
breakdown by the kind of answer: `yes_no`, `number`, `other`.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainables.tasks.answers import YES_NO, AnswerTask


class VqaTask(AnswerTask):
    @property
    def kinds(self) -> Mapping[str, frozenset[str]]:
        answers = frozenset(self.data.answers)
        numbers = frozenset(answer for answer in answers if answer.isdigit())
        return {"yes_no": YES_NO, "number": numbers, "other": answers - numbers - YES_NO}


open_task = VqaTask.open
