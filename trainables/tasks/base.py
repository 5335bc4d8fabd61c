"""The protocol of task modules.

A module `trainables.tasks.NAME` has

    open_task(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> Task

A task has the examples in the format that `backbone` reads, the head, the loss and the metric.
`open_task` raises DataError if the data are missing or malformed. It caches opened data for later
trials of the same process. Tasks on published data extend `trainables.tasks.common.PublishedTask`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.data.augmentation.apply import UNCHANGED, Augmentation
from trainables.data.reference import DataReference, data_reference
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.tickets.base import Masks

Batch: TypeAlias = Mapping[str, Tensor]
"""The inputs of `Backbone.forward`, and those of the task's head and loss, on the CPU."""
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TaskSource:
    """What a task is opened with besides its spec."""

    location: DataReference | Path
    """Where the task's data are; a task reads them by `reference` and `local_path()`."""
    cache: Path
    """Folder for decoded copies and fetched data, which processes share."""
    augmentation: Augmentation = UNCHANGED
    """What changes the images of training batches (see `TaskEntry.augments`)."""
    region_features: str = "float16"
    """Number format of region features (see `trainables.spec.Recipe`)."""

    @property
    def reference(self) -> DataReference:
        return data_reference(self.location)

    def local_path(self) -> Path:
        """Return the path of the data on this machine. Raises DataError if they are remote and
        cannot be fetched."""
        return self.reference.local_path(self.cache)


class Task(ABC):
    @property
    @abstractmethod
    def num_eval(self) -> int:
        """Number of held-out examples."""

    @property
    @abstractmethod
    def prior(self) -> float:
        """Score in percent, on the held-out examples, of a predictor that ignores the image."""

    @abstractmethod
    def lengths(self) -> Indices:
        """Return (E,) the number of words plus regions or patches of each training example: of its
        longest sequence, or of all its sequences where a published batch counts them all."""

    def uniter_lengths(self) -> Indices:
        """Return (E,) the lengths that UNITER's sampler counts, for the recipe's `token_batches:
        uniter`. They leave out [CLS] and [SEP]. By default they are `lengths()`."""
        return self.lengths()

    @abstractmethod
    def build_head(self, backbone: Backbone) -> nn.Module:
        """Build the head with random weights from torch's current generator. `head(encoded, batch)`
        maps `Encoded` to logits.

        The head must not register weights that it shares with the backbone. If its `forward`
        directly uses weights of other modules (submodules included), it lists them as `reads`: at
        ZeRO 3 a weight is gathered only for modules that are known to read it.
        """

    def init_from_pretrained(
        self, head: dict[str, Tensor], published: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the head's initial weights, given a random `head` and the heads of the checkpoint
        file that the run starts from (`Checkpoint.heads`; empty without a file). By default, the
        random head is kept."""
        return head

    @abstractmethod
    def train_batch(self, indices: Indices, rng: Rng) -> Batch:
        """Return the training examples at `indices`, each 0 to E - 1, in that order.

        Random choices of an example (masking, negatives) use `rng`. Random choices that all
        micro-batches of an optimizer step share (the pre-training objective) use `rng.parent()`.

        This method runs in its own thread, possibly while another thread iterates `eval_batches`.
        Neither may change the task, use its state, use torch's global generator, or write to a
        batch that it returned before.
        """

    @abstractmethod
    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """Yield the first `examples` held-out examples (0: all) in batches, in a fixed order."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss, mean over the batch."""

    @abstractmethod
    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Return the symmetric KL divergence of two predictions, in nats, mean over the batch."""

    @abstractmethod
    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Score batches with their logits. Return, in percent, `score` and the task's breakdown."""

    # The state of a task is what its training changes besides the network, such as a queue or the
    # weights of a momentum encoder. Most tasks have none. It is saved with the weights: in
    # checkpoints, in rewind points, and in the hashes of start and final weights. It may change in
    # `loss` and `after_step` only. In a run of several processes it must be the same in all of them
    # after each step, so a task exchanges what depends on a process's own examples in `after_step`
    # (`Peers.all_gather`, `Peers.all_reduce`).

    def init_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state at the start of training, by names of the task's own, given the start
        weights of the network (`backbone.*` and `head.*`, float32, on CPU) before any ticket is
        applied. It must be a function of the weights and of constants."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], masks: Masks) -> None:
        """Set the state: before training to the one of `init_state` or of a rewind point, then to
        that of a checkpoint, if there is one. Copy the tensors, which are on the CPU.

        `masks` are those of the weights that the run's ticket holds at zero, by the network's
        tensor names; empty for a dense run. A momentum encoder applies them to its own weights,
        which are those of a dense network otherwise.
        """
        return

    def state(self) -> dict[str, Tensor]:
        """Return the current state, with the names of `init_state`."""
        return {}

    def after_step(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Update the state after an optimizer step. All processes call it.

        `weights()` returns the network's parameters as float32, on the device. They may be views of
        the network's own, so they must not be changed or kept. A momentum encoder must average
        these and keep its average in float32: an average in bfloat16 with momentum 0.999 does not
        move at all.
        """
        return
