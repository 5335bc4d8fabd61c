"""The contract of tasks."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from trainables.seeds import Rng
from trainables.spec import ModelSpec, TaskSpec
from trainables.tasks import TASKS, default_recipe, embedding_extensions
from trainables.tasks.base import Batch, Indices, Task, TaskSource
from trainables.training.start import extended_backbone

EXAMPLES = 8


def check_task_contract(spec: TaskSpec, model: ModelSpec, source: TaskSource) -> None:
    """Check a task of `TASKS` with a small model and data.

    The task or the model has a recipe for the two. A batch is a function of the indices and the
    random stream alone. The loss is a finite scalar whose gradients are finite. The score does not
    depend on the batch size of the evaluation.
    """
    entry = TASKS[spec.name]
    default_recipe(spec.name, model.architecture)  # raises RecipeError if there is none
    extensions = embedding_extensions(spec.name, model.architecture)
    backbone = extended_backbone(model, extensions, 0.0)
    task: Task = import_module(entry.module).open_task(source, spec, backbone)
    lengths = task.lengths()
    assert lengths.ndim == 1, f"lengths: {lengths.shape}"
    assert len(lengths) > 0, "there are no training examples"
    assert bool((lengths > 0).all()), "an example has no length"
    assert task.num_eval > 0, "there are no held-out examples"
    assert 0 <= task.prior <= 100, f"prior: {task.prior} is no percentage"
    indices: Indices = np.arange(EXAMPLES, dtype=np.int64) % len(lengths)
    batch = _check_batches(task, indices)
    torch.manual_seed(0)
    head = task.build_head(backbone)
    logits = head(backbone(batch), batch)
    loss = task.loss(logits, batch)
    assert loss.ndim == 0, f"the loss has the shape {tuple(loss.shape)}; return its mean"
    assert bool(loss.isfinite()), f"the loss is {float(loss.detach())}"
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [w.grad for w in (*backbone.parameters(), *head.parameters()) if w.grad is not None]
    assert gradients, "the loss has no gradient"
    assert all(bool(each.isfinite().all()) for each in gradients), "a gradient is not finite"
    same = task.divergence(logits.detach(), logits.detach(), batch)
    assert abs(float(same)) < 1e-4, f"a prediction diverges from itself by {float(same)}"
    _check_score(task, backbone.eval(), head.eval())


def _check_batches(task: Task, indices: Indices) -> Batch:
    generators = torch.random.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]
    batch = task.train_batch(indices, Rng(0, "batch", 0, 0))
    task.train_batch(indices[::-1].copy(), Rng(0, "batch", 1, 0))
    again = task.train_batch(indices, Rng(0, "batch", 0, 0))
    assert batch.keys() == again.keys()
    for name, value in batch.items():
        assert value.device.type == "cpu", f"{name} is on {value.device}; batches are on the CPU"
        assert torch.equal(value, again[name]), f"{name} differs when the batch is drawn again"
    assert torch.equal(torch.random.get_rng_state(), generators[0]), "it uses torch's generator"
    assert np.array_equal(np.random.get_state()[1], generators[1]), "it uses numpy's generator"  # type: ignore[index]
    return batch


def _check_score(task: Task, backbone: torch.nn.Module, head: torch.nn.Module) -> None:
    scores = []
    for batch_size in (2, 3):
        scored: list[tuple[Tensor, Batch]] = []
        with torch.no_grad():
            for batch in task.eval_batches(batch_size, min(EXAMPLES, task.num_eval)):
                scored.append((head(backbone(batch), batch), batch))
        scores.append(task.score(scored))
    for name, value in scores[0].items():
        assert 0 <= value <= 100, f"{name} = {value} is no percentage"
        assert abs(value - scores[1][name]) < 1e-6, f"{name} depends on the batch size"
    assert "score" in scores[0], "the scores have no `score`"
