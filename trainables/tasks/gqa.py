"""GQA (Hudson and Manning 2019): one of some 1,842 answers to a compositional question.

It works like VQA (see `trainables.tasks.vqa`), with one answer per question: the score is the share
of exact matches. A question whose answer is not in the vocabulary has no target and always counts
as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainables.tasks.answers import YES_NO, AnswerTask


class GqaTask(AnswerTask):
    @property
    def kinds(self) -> Mapping[str, frozenset[str]]:
        return {"yes_no": YES_NO, "other": frozenset(self.data.answers) - YES_NO}


open_task = GqaTask.open
