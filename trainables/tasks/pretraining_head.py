"""The heads of UNITER's pre-training as one module, named as in its checkpoint.

Two weights are the backbone's own: words are predicted by the word embeddings, region features by
the transposed projection that reads them. They are referred to, not registered: the head's state
has neither, and a training step counts them once.
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


class _Words(nn.Module):
    """BERT's masked-word head; the decoder's weight is given."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, eps=_EPS)}
        )

    def forward(self, hidden: Tensor, decoder: Tensor) -> Tensor:
        dense, norm = self.transform.values()
        return linear(norm(gelu(dense(hidden))), decoder, self.bias)


class _Features(nn.Module):
    """Masked region feature regression; the weight (hidden, dim) is given."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.net = nn.Sequential(*_transform(hidden))

    def forward(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return linear(self.net(hidden), weight.t(), self.bias)


class _Classes(nn.Module):
    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*_transform(hidden), nn.Linear(hidden, classes))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.net(hidden)
        return out


class PretrainingHead(nn.Module):
    """Logits of the objective whose targets the batch holds; see `forward`."""

    cls: nn.ModuleDict
    feat_regress: _Features
    region_classifier: _Classes
    itm_output: nn.Linear
    reads: tuple[nn.Parameter, ...]
    """See `trainables.tasks.base.Task.build_head`."""

    def __init__(self, backbone: Backbone, objectives: Collection[str], classes: int) -> None:
        """The heads of `objectives` alone; `classes`: the detector's, background included."""
        super().__init__()
        hidden = backbone.hidden_size
        borrowed = []
        if "mlm" in objectives:
            self.cls = nn.ModuleDict({"predictions": _Words(hidden, backbone.vocab_size)})
        if "mrfr" in objectives:
            self.feat_regress = _Features(hidden, backbone.region_dim)
        if "mrc_kl" in objectives:
            self.region_classifier = _Classes(hidden, classes)
        if "itm" in objectives:
            self.itm_output = nn.Linear(hidden, 2)
            borrowed += [*backbone.get_submodule("pooler").parameters()]
        if {"mrfr", "mrc_kl"} & set(objectives):
            borrowed += [*backbone.get_submodule("img_embeddings.mask_embedding").parameters()]
        # In tuples, where nn.Module does not look for parameters.
        self._tied = (
            backbone.get_parameter("embeddings.word_embeddings.weight"),
            backbone.get_parameter("img_embeddings.img_linear.weight"),
        )
        self._reached = (*self.parameters(), *borrowed)
        """Weights, the backbone's too, that some of the objectives reach and some do not."""
        self.reads = self._tied + self._reached

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:
        """`word_labels`: (n, vocabulary), for the tokens at `places` (n,) of the flat (B, T);
        `feature_targets`: (n, region_dim), for the regions at `places` of the flat (B, N);
        `class_targets`: (n, classes), for these too; `matched`: (B, 3), no match, match, and the
        cost of moving the words onto the regions."""
        words, projection = self._tied
        if "word_labels" in batch:
            scores: Tensor = self.cls["predictions"](self._at(encoded.text, batch), words)
        elif "feature_targets" in batch:
            scores = self.feat_regress(self._at(encoded.image, batch), projection)
        elif "class_targets" in batch:
            scores = self.region_classifier(self._at(encoded.image, batch))
        else:
            masks = batch["text_mask"], batch["region_mask"]
            # In float32, as published: 50 rescalings lose too much of a bfloat16.
            cost = transport.distance(encoded.text.float(), encoded.image.float(), *masks)
            matched = self.itm_output(encoded.pooled + self._nothing()).float()
            scores = torch.cat([matched, cost[:, None]], dim=1)
        return scores

    def _at(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden.flatten(0, 1)[batch["places"]] + self._nothing()

    def _nothing(self) -> Tensor:
        """A zero that gives a gradient of zero to what this step's objective does not reach: Adam
        then counts each step for all weights, as in the official code, and a run that resumes need
        not know which steps had which objective."""
        return 0.0 * torch.stack([weight.sum() for weight in self._reached]).sum()


def _transform(hidden: int) -> Iterator[nn.Module]:
    yield from (nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=_EPS))
