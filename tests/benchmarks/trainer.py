"""Our fine-tune step against Hugging Face's Trainer: same model, batch, recipe and machine, CPU.

Tiny: UNITER-tiny on easy-VQA, 128 questions a step, the shipped recipe. Base: UNITER-base, 12
layers, 8 examples of 14 tokens and 36 regions. float32, one thread. Both sides run their own whole
loop, data included, and what is timed is the CPU time between the ends of two steps. Trainer gets
the gentler deal: its examples lie ready as float tensors, which its own collator stacks, where ours
standardises and pads the task's bytes in every step at size tiny. Each side runs in fresh
processes, in turn with the others. Other work on the machine only ever adds to a step, so the
fastest fifth of them is what counts.

A third side takes the forward and the backward pass alone, on one batch: that much is the model's,
and no loop around it can go below.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.benchmarks.alone import alone
from tests.benchmarks.table import Row
from trainables.data.fingerprint import fingerprint
from trainables.distributed.process import prepare_process
from trainables.seeds import Chance
from trainables.spec import ModelSpec, Recipe, TaskSpec
from trainables.tasks import TASKS
from trainables.tasks.base import Batch, Source
from trainables.tasks.easy_vqa import EasyVQA, open_task
from trainables.tasks.heads import classifier
from trainables.training.adversary import objective_of
from trainables.training.engine import started
from trainables.training.loop import Course, Progress, train
from trainables.training.network import Network
from trainables.training.sink import Turn
from trainables.training.start import drawn_backbone

Size = Literal["tiny", "base"]
STEPS: dict[Size, int] = {"tiny": 120, "base": 7}
SETTLED: dict[Size, int] = {"tiny": 20, "base": 2}
"""Steps that are not counted: the first allocate."""
TURNS = 3
LIMIT = 1.2
NAMES: dict[Size, str] = {
    "tiny": "UNITER-tiny, easy-VQA, 128",
    "base": "UNITER-base, 8 x 50 tokens",
}
RECIPES: dict[Size, Recipe] = {
    "tiny": replace(TASKS["easy_vqa"].recipes["uniter"], steps=STEPS["tiny"]),
    "base": Recipe(steps=STEPS["base"], batch_size=8),
}
EXAMPLES, TEXT, REGIONS, ANSWERS = 64, 14, 36, 3129


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """A task whose examples lie in memory as tensors; what the loop needs of a task."""

    tensors: dict[str, Tensor]
    ends: list[float] = field(default_factory=list)
    """CPU seconds when each step's batch is made, one step ahead."""
    inner: EasyVQA | None = None

    def lengths(self) -> NDArray[np.int64]:
        return np.ones(len(self.tensors["labels"]), np.int64)

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        self.ends.append(time.process_time())
        if self.inner is not None:
            return self.inner.train_batch(indices, chance)
        rows = torch.from_numpy(indices)
        return {name: value[rows] for name, value in self.tensors.items()}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        yield from ()

    def score(self, scored: Any) -> dict[str, float]:
        return {"score": sum(len(logits) for logits, _ in scored) * 0.0}


def setting(size: Size) -> tuple[Network, Examples]:
    model = ModelSpec(architecture="uniter", size=size)
    backbone = drawn_backbone(model, 0, RECIPES[size].dropout)
    hidden = backbone.hidden_size
    if size == "base":
        return Network(backbone, classifier(hidden, 2 * hidden, ANSWERS)), Examples(
            tensors=_synthetic()
        )
    folder = TASKS["easy_vqa"].shipped_data()
    assert folder is not None
    source = Source(folder, Path("unused"))
    task = open_task(source, TaskSpec(name="easy_vqa", data=fingerprint(folder)), backbone)
    ready = task.train_batch(np.arange(8192), Chance(0))
    tensors = {name: value.clone() for name, value in ready.items()}
    return Network(backbone, task.build_head(backbone)), Examples(tensors=tensors, inner=task)


def _synthetic() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1000, (EXAMPLES, TEXT), generator=chance),
        "text_mask": torch.ones(EXAMPLES, TEXT, dtype=torch.bool),
        "region_features": torch.randn(EXAMPLES, REGIONS, 2048, generator=chance),
        "region_boxes": torch.rand(EXAMPLES, REGIONS, 7, generator=chance),
        "labels": torch.randint(ANSWERS, (EXAMPLES,), generator=chance),
    }


class Silent:
    def rewind(self, step: int, payload: bytes) -> None: ...
    def cut(self, key: str, masks: Mapping[str, NDArray[np.bool_]]) -> None: ...
    def checkpoint(self, payload: bytes) -> None: ...
    def alive(self) -> None: ...
    def turn(self, step: int) -> Turn:
        return "go on"

    def progress(self, step: int, values: Mapping[str, float]) -> None: ...


def ours(size: Size) -> list[float]:
    """CPU seconds of each settled step."""
    prepare_process("cpu", threads=1)
    net, task = setting(size)
    recipe = RECIPES[size]
    course = Course(
        recipe=recipe,
        objective=objective_of(task, recipe, net.backbone.hidden_size),  # type: ignore[arg-type]
        data_seed=0,
        start_sha256="",
        first=0,
        end=recipe.steps,
        rewinds=frozenset(),
    )
    with started(net, recipe, "cpu") as engine:
        train(engine, task, course, Progress(step=0), Silent())  # type: ignore[arg-type]
    return _between(task.ends, size)


def theirs(size: Size) -> list[float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    net, task = setting(size)
    recipe = RECIPES[size]

    class Wrapped(nn.Module):
        """With the keys of the batch as arguments, from which Trainer learns what to pass on."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(
            self,
            input_ids: Tensor,
            text_mask: Tensor,
            region_features: Tensor,
            region_boxes: Tensor,
            labels: Tensor,
        ) -> dict[str, Tensor]:
            logits = self.net(
                {
                    "input_ids": input_ids,
                    "text_mask": text_mask,
                    "region_features": region_features,
                    "region_boxes": region_boxes,
                }
            )
            return {"loss": cross_entropy(logits, labels), "logits": logits}

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return len(task.tensors["labels"])

        def __getitem__(self, place: int) -> dict[str, Tensor]:
            return {name: value[place] for name, value in task.tensors.items()}

    class Clock(TrainerCallback):
        def on_step_end(self, *given: Any, **more: Any) -> None:
            task.ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.lr,
            lr_scheduler_type="linear",
            warmup_steps=round(recipe.warmup * recipe.steps),
            weight_decay=recipe.weight_decay,
            adam_beta1=recipe.beta1,
            adam_beta2=recipe.beta2,
            adam_epsilon=recipe.eps,
            max_grad_norm=recipe.clip_norm,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        Trainer(model=Wrapped(), args=arguments, train_dataset=Rows(), callbacks=[Clock()]).train()
    return _between(task.ends, size)


def _between(moments: list[float], size: Size) -> list[float]:
    return np.diff(moments)[SETTLED[size] :].tolist()


def passes(size: Size) -> list[float]:
    """Of the forward and the backward pass alone, in a process prepared as ours is."""
    prepare_process("cpu", threads=1)
    net, task = setting(size)
    batch = task.train_batch(np.arange(RECIPES[size].batch_size), Chance(0))
    moments = []
    for _ in range(STEPS[size]):
        moments.append(time.process_time())
        task.loss(net(batch), batch).backward()  # type: ignore[no-untyped-call]
        for weight in net.parameters():
            weight.grad = None
    return _between(moments, size)


SIDES = {"ours": ours, "theirs": theirs, "passes": passes}


def run() -> Iterator[Row]:
    for size, what in NAMES.items():
        times: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(TURNS):
            for name, side in SIDES.items():
                times[name] += alone(side, size)
        quiet = {name: float(np.percentile(each, 20)) for name, each in times.items()}
        rate = {name: RECIPES[size].batch_size / each for name, each in quiet.items()}
        ratio = quiet["theirs"] / quiet["ours"]
        yield Row(
            what=f"fine-tune step, data included: {what} a batch",
            ours=f"{rate['ours']:.4g} examples/s",
            other=f"transformers.Trainer: {rate['theirs']:.4g} examples/s",
            ratio=f"{ratio:.2f}x",
            limit=f"≥ {LIMIT}",
            met=ratio >= LIMIT,
        )
        around = {name: quiet[name] - quiet["passes"] for name in ("ours", "theirs")}
        yield Row(
            what="the same, beyond the model's forward and backward pass",
            ours=f"{1e3 * around['ours']:.3g} of {1e3 * quiet['ours']:.3g} ms",
            other=f"transformers.Trainer: {1e3 * around['theirs']:.3g} ms",
            ratio=f"{around['theirs'] / around['ours']:.1f}x",
        )
