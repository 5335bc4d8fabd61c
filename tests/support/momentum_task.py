"""easy-VQA with state: a momentum encoder of the backbone, and a queue of its embeddings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainables.distributed.collectives import current_peers
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.spec import BACKBONE, TaskSpec
from trainables.tasks import TASKS, TaskEntry, easy_vqa
from trainables.tasks.base import Batch, Indices, Task, TaskSource
from trainables.tickets.weights import Masks

KEY = "key."
QUEUE = 24
MOMENTUM = 0.9
ENTRY: TaskEntry = replace(TASKS["easy_vqa"], module=__name__)


class MomentumTask(Task):
    def __init__(self, inner: Task, backbone: Backbone) -> None:
        self.inner = inner
        self.encoder = copy.deepcopy(backbone).eval().requires_grad_(False)
        self.queue, self.pointer = torch.empty(0), torch.tensor(0)
        self.keys: list[Tensor] = []

    @property
    def num_eval(self) -> int:
        return self.inner.num_eval

    @property
    def prior(self) -> float:
        return self.inner.prior

    def lengths(self) -> Indices:
        return self.inner.lengths()

    def build_head(self, backbone: Backbone) -> nn.Module:
        return self.inner.build_head(backbone)

    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        return self.inner.train_batch(indices, rng)

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        return self.inner.eval_batches(batch_size, examples)

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return self.inner.divergence(clean, perturbed, batch)

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        return self.inner.score(scored)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            keys = self.encoder(batch).pooled
        self.keys.append(keys)
        similarity = (keys @ self.queue.T).tanh().mean(dim=1)
        return self.inner.loss(logits, batch) + (logits.mean(dim=1) - similarity).pow(2).mean()

    def init_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoder = {
            KEY + name.removeprefix(BACKBONE): value
            for name, value in weights.items()
            if name.startswith(BACKBONE)
        }
        width = next(iter(self.encoder.parameters())).shape[-1]
        return {"queue": torch.ones(QUEUE, width), "pointer": torch.tensor(0), **encoder}

    def load_state(self, state: Mapping[str, Tensor], masks: Masks) -> None:
        self.queue, self.pointer = state["queue"].clone(), state["pointer"].clone()
        own = self.encoder.state_dict()
        for name, value in own.items():
            value.copy_(state[KEY + name])
            if BACKBONE + name in masks:
                value.mul_(torch.from_numpy(masks[BACKBONE + name]))

    def state(self) -> dict[str, Tensor]:
        encoder = {KEY + name: value for name, value in self.encoder.state_dict().items()}
        return {"queue": self.queue, "pointer": self.pointer, **encoder}

    def after_step(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        masters = weights()
        for name, value in self.encoder.named_parameters():
            value.lerp_(masters[BACKBONE + name], 1 - MOMENTUM)
        own = torch.cat(self.keys).numpy()
        for key in torch.from_numpy(current_peers().all_gather(own)).flatten(0, 1):
            self.queue[self.pointer] = key
            self.pointer = (self.pointer + 1) % QUEUE
        self.keys.clear()


def open_task(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> Any:
    return MomentumTask(easy_vqa.open_task(source, spec, backbone), backbone)
