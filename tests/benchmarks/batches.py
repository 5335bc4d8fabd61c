"""Benchmark of the two kinds of token batches: what a micro-batch of UNITER's VQA recipe holds.

The lengths are generated and like those of VQA: questions of 6 to 20 words, few of them long, and
10 to 100 regions, about 40 on average (Chen et al. 2020 keep the boxes with confidence above 0.2).
Counts, not times.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.table import Row
from trainables.spec import Recipe
from trainables.tasks.recipes import VQA
from trainables.training.order import BatchOrder

EXAMPLES = 8 * 8192
STEPS = 20
"""Optimizer steps of 20 micro-batches each, about an epoch of `full` batches."""


def vqa_lengths() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the words, without [CLS] and [SEP], and the regions of each example."""
    rng = np.random.default_rng(0)
    words = (6 + rng.gamma(1.5, 2.0, EXAMPLES)).clip(6, 20).astype(np.int64)
    regions = (10 + rng.gamma(3.0, 10.0, EXAMPLES)).clip(10, 100).astype(np.int64)
    return words, regions


def measure(recipe: Recipe, lengths: NDArray[np.int64], padded: int) -> tuple[float, float, float]:
    """Return the examples of a micro-batch, the share of its tokens that are padding, and its
    tokens over `recipe.tokens`, all on average. `lengths` are those that the recipe counts, from
    which those of the network differ by `padded`."""
    order = BatchOrder(recipe, lengths, 0)
    batches = [batch for step in range(STEPS) for batch in order.micro_batches(step)]
    examples = sum(map(len, batches))
    real = sum(int((lengths[batch] + padded).sum()) for batch in batches)
    tokens = sum(int((lengths[batch] + padded).max()) * len(batch) for batch in batches)
    return examples / len(batches), 1 - real / tokens, tokens / (recipe.tokens * len(batches))


def run() -> Iterator[Row]:
    words, regions = vqa_lengths()
    published = VQA["uniter"]
    full = Recipe(tokens=published.tokens, accumulate=published.accumulate)
    examples, padding, filled = measure(full, words + 2 + regions, 0)
    fewer, padding_there, filled_there = measure(published, words + regions, 2)
    yield Row(
        what=f"examples per micro-batch of {published.tokens:,} tokens, lengths like VQA's",
        ours=f"`full`: {examples:.1f}, {padding:.1%} of the tokens padding",
        other=f"`uniter`, the published one: {fewer:.1f}, {padding_there:.1%} padding",
        ratio=f"{examples / fewer:.2f}x",
    )
    yield Row(
        what="tokens of a micro-batch, with padding, of the limit",
        ours=f"`full`: {filled:.2f}",
        other=f"`uniter`: {filled_there:.2f}",
        ratio=f"{filled / filled_there:.2f}x",
    )
