"""The heads of UNITER's pre-training as one module, with parameters named as in its checkpoint.

Two weights belong to the backbone: words are predicted with the word embeddings, region features
with the transposed projection of the region embeddings. The head refers to them without registering
them, so they are not in its state dict and are updated once per training step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from trainables.models.base import Backbone, Encoded
from trainables.tasks import transport
from trainables.tasks.base import Batch

_EPS = 1e-12


class _WordHead(nn.Module):
    """BERT's masked-word head; the caller passes the decoder's weight."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, eps=_EPS)}
        )

    def forward(self, hidden: Tensor, decoder: Tensor) -> Tensor:
        dense, norm = self.transform.values()
        return linear(norm(gelu(dense(hidden))), decoder, self.bias)


class _FeatureHead(nn.Module):
    """Masked region feature regression; the caller passes the weight (hidden, dim)."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.net = nn.Sequential(*_transform(hidden))

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return linear(self.net(hidden), weight.t(), self.bias)


class _ClassHead(nn.Module):
    """Masked region classification."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*_transform(hidden), nn.Linear(hidden, classes))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.net(hidden)
        return out


class PretrainingHead(nn.Module):
    """Computes the logits of the batch's objective; see `forward`."""

    cls: nn.ModuleDict
    feat_regress: _FeatureHead
    region_classifier: _ClassHead
    itm_output: nn.Linear
    reads: tuple[nn.Parameter, ...]
    """See `trainables.tasks.base.Task.build_head`."""

    def __init__(self, backbone: Backbone, objectives: Collection[str], classes: int) -> None:
        """Create the heads of `objectives` only. `classes` is the number of the detector's classes,
        background included."""
        super().__init__()
        hidden = backbone.hidden_size
        borrowed = []
        if "mlm" in objectives:
            self.cls = nn.ModuleDict({"predictions": _WordHead(hidden, backbone.vocab_size)})
        if "mrfr" in objectives:
            self.feat_regress = _FeatureHead(hidden, backbone.region_dim)
        if "mrc_kl" in objectives:
            self.region_classifier = _ClassHead(hidden, classes)
        if "itm" in objectives:
            self.itm_output = nn.Linear(hidden, 2)
            borrowed += [*backbone.get_submodule("pooler").parameters()]
        if {"mrfr", "mrc_kl"} & set(objectives):
            borrowed += [*backbone.get_submodule("img_embeddings.mask_embedding").parameters()]
        # nn.Module does not register parameters in tuples.
        self._tied = (
            backbone.get_parameter("embeddings.word_embeddings.weight"),
            backbone.get_parameter("img_embeddings.img_linear.weight"),
        )
        self._objective_weights = (*self.parameters(), *borrowed)
        """Weights, including some of the backbone, that only some of the objectives use."""
        self.reads = self._tied + self._objective_weights

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:
        """Return the logits that belong to the batch's targets.

        * `word_labels`: (n, vocabulary), for the tokens at `masked_positions` (n,) of the flattened
          (B, T);
        * `feature_targets`: (n, region_dim), for the regions at `masked_positions` (n,) of the
          flattened (B, N);
        * `class_targets`: (n, classes), for the same regions;
        * `matched`: (B, 3): no match, match, and the cost of transporting the words to the regions.
        """
        words, projection = self._tied
        if "word_labels" in batch:
            scores: Tensor = self.cls["predictions"](
                self._gather_masked(encoded.text, batch), words
            )
        elif "feature_targets" in batch:
            scores = self.feat_regress(self._gather_masked(encoded.image, batch), projection)
        elif "class_targets" in batch:
            scores = self.region_classifier(self._gather_masked(encoded.image, batch))
        else:
            masks = batch["text_mask"], batch["region_mask"]
            # In float32, as published: 50 rescalings lose too much of a bfloat16.
            cost = transport.distance(encoded.text.float(), encoded.image.float(), *masks)
            matched = self.itm_output(encoded.pooled + self._zero_term()).float()
            scores = torch.cat([matched, cost[:, None]], dim=1)
        return scores

    def _gather_masked(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden.flatten(0, 1)[batch["masked_positions"]] + self._zero_term()

    def _zero_term(self) -> Tensor:
        """Return a zero that gives zero gradients to weights that this step's objective does not
        use. Adam then counts each step for all weights, as in the official code, and a resumed run
        does not depend on which steps had which objective."""
        return 0.0 * torch.stack([weight.sum() for weight in self._objective_weights]).sum()


def _transform(hidden: int) -> Iterator[nn.Module]:
    yield from (nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=_EPS))
