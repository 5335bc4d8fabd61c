"""SNLI-VE (Xie et al. 2019): does the image entail, contradict or leave open a sentence?

The three labels are in the order of the data, which differs between UNITER and METER. UNITER is
trained as in VQA, with binary cross-entropy on soft targets (its code, `train_ve.py`). ViLT's
authors did not publish this task; ViLT is trained as METER (Dou et al. 2022) is, with cross-entropy
on the three classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import cross_entropy

from trainables.tasks.answers import AnswerTask
from trainables.tasks.base import Batch


class SnliVeTask(AnswerTask):
    @property
    def kinds(self) -> Mapping[str, frozenset[str]]:
        return {answer: frozenset({answer}) for answer in self.data.answers}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.model.head.loss == "softmax":
            return cross_entropy(logits, batch["targets"])
        return super().loss(logits, batch)


open_task = SnliVeTask.open
