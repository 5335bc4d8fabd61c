"""Accuracy, consistency and prior, and UNITER's paired attention compared with its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.toy_tasks import backbone, toy_data, toy_split, toy_task
from trainables.data.schema.examples import Ragged
from trainables.seeds import Rng
from trainables.tasks.nlvr2 import PairedAttention


def test_a_sentence_is_consistent_if_it_is_right_on_all_its_pairs() -> None:
    split = replace(
        toy_split("nlvr2", "uniter", 6, 0),
        texts=Ragged.from_rows(
            [[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 7, 2], [1, 7, 2], [1, 8, 2]], np.int32
        ),
        labels=Ragged.from_rows([[0], [1], [1], [0], [0], [1]], np.int32),
    )
    model = backbone("nlvr2", "uniter")
    task = toy_task("nlvr2", replace(toy_data("nlvr2", "uniter"), held_out=split), model)
    predicted = torch.eye(2)[[0, 1, 0, 0, 0, 0]]  # wrong on the third and the last
    batches = list(task.eval_batches(4, 0))
    scores = task.score(zip(predicted.split(2), batches, strict=True))
    assert scores == pytest.approx({"score": 100 * 4 / 6, "consistency": 50.0})
    first = task.score(zip(predicted[:2].split(2), batches[:1], strict=True))
    assert first == {"score": 100, "consistency": 100}


def test_prior_is_the_most_frequent_label_of_a_sentence() -> None:
    texts = [[1, 5, 2]] * 3 + [[1, 6, 2]] * 5
    train = replace(
        toy_split("nlvr2", "uniter", 8, 0),
        texts=Ragged.from_rows(texts, np.int32),
        labels=Ragged.from_rows([[1], [1], [0], [0], [0], [0], [0], [1]], np.int32),
    )
    held_out = replace(
        toy_split("nlvr2", "uniter", 4, 0),
        texts=Ragged.from_rows([[1, 5, 2], [1, 5, 2], [1, 6, 2], [1, 9, 2]], np.int32),
        labels=Ragged.from_rows([[1], [0], [0], [0]], np.int32),
    )
    data = replace(toy_data("nlvr2", "uniter"), train=train, held_out=held_out)
    assert toy_task("nlvr2", data, backbone("nlvr2", "uniter")).prior == 75


def test_the_two_images_have_different_types_where_the_model_has_them() -> None:
    for architecture in ("uniter", "lxmert", "vilt"):
        task = toy_task("nlvr2", toy_data("nlvr2", architecture), backbone("nlvr2", architecture))
        kinds = task.train_batch(np.arange(3), Rng(0)).get("image_kinds")
        if architecture == "lxmert":
            assert kinds is None
        else:
            assert kinds.tolist() == [1, 2] * 3


def _attend(layer: nn.MultiheadAttention, query: Tensor, source: Tensor) -> Tensor:
    """Compute multi-head attention of (L, hidden) on (M, hidden) by its formula."""
    width = query.shape[1]
    parts = zip(layer.in_proj_weight.split(width), layer.in_proj_bias.split(width), strict=True)
    q, k, v = (
        (x @ weight.T + bias).view(len(x), layer.num_heads, -1).transpose(0, 1)
        for x, (weight, bias) in zip((query, source, source), parts, strict=True)
    )
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return layer.out_proj((weights @ v).transpose(0, 1).reshape(len(query), width))


def test_paired_attention_is_the_published_function() -> None:
    torch.manual_seed(0)
    model = backbone("nlvr2", "uniter").eval()
    task = toy_task("nlvr2", toy_data("nlvr2", "uniter"), model)
    head = task.build_head(model).eval()
    assert isinstance(head, PairedAttention)
    for weight in head.parameters():  # so that the ReLU of the pooling has both signs as inputs
        nn.init.normal_(weight, std=0.3)
    batch = task.train_batch(np.arange(5), Rng(0))
    encoded = model(batch)
    tokens = torch.cat([encoded.text, encoded.image], dim=1)
    mask = torch.cat([batch["text_mask"], batch["region_mask"]], dim=1)
    for n, logits in enumerate(head(encoded, batch)):
        left, right = (tokens[s][mask[s]] for s in (2 * n, 2 * n + 1))
        pooled = []
        for layer, own, other in ((head.attn1, left, right), (head.attn2, right, left)):
            fused = head.fc(torch.cat([_attend(layer, own, other), own], dim=1))
            pooled.append((head.attn_pool.fc(fused).softmax(dim=0) * fused).sum(dim=0))
        torch.testing.assert_close(
            logits, head.nlvr2_output(torch.cat(pooled)), atol=1e-5, rtol=1e-4
        )
