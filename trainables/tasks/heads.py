"""Head modules that tasks share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from trainables.models import MODELS
from trainables.models.base import Encoded
from trainables.tasks.base import Batch


class PooledHead(nn.Sequential):
    """Layers over the pooled output, with parameters named by index as in the published heads.

    The input width of the first layer sets how many sequences of an example are concatenated:
    pooled outputs (2B, H) become (B, 2H) for a first layer of width 2H.
    """

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:  # type: ignore[override]
        width = self[0].in_features
        assert isinstance(width, int)
        out = encoded.pooled.reshape(-1, width)
        for layer in self:
            out = layer(out)
        return out


# Weights have torch's default initialisation: at width 768 its standard deviation is 0.021, where
# the official code has 0.02; in narrow networks it is larger, as they need.
def classifier(hidden: int, wide: int, classes: int) -> PooledHead:
    """Build UNITER's answer head (its code, `model/vqa.py`), which is also LXMERT's: Linear, GELU,
    LN, Linear."""
    return PooledHead(
        nn.Linear(hidden, wide), nn.GELU(), nn.LayerNorm(wide, eps=1e-12), nn.Linear(wide, classes)
    )


def norm_first_classifier(hidden: int, wide: int, classes: int) -> PooledHead:
    """Build ViLT's answer head (its code, `vilt_module.py`): Linear, LN with torch's default eps,
    GELU, Linear."""
    return PooledHead(
        nn.Linear(hidden, wide), nn.LayerNorm(wide), nn.GELU(), nn.Linear(wide, classes)
    )


def linear_classifier(hidden: int, wide: int, classes: int) -> PooledHead:
    """Build the head of an image classifier, one linear layer; `wide` is not used."""
    return PooledHead(nn.Linear(hidden, classes))


_CLASSIFIERS = {
    "linear": linear_classifier,
    "gelu_norm": classifier,
    "norm_gelu": norm_first_classifier,
}
"""`HeadStyle.layers` -> the head."""


def answer_head(architecture: str, hidden: int, wide: int, classes: int) -> PooledHead:
    """Build a model's answer head in its authors' style, `HeadStyle.layers`: pooled outputs
    (B, hidden) to logits (B, classes). `wide` is the width between two linear layers."""
    return _CLASSIFIERS[MODELS[architecture].head.layers](hidden, wide, classes)


def symmetric_kl(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return KL(p || q) + KL(q || p) of the softmax over the last axis, mean over rows, in nats
    (VILLA, equation 6)."""
    p, q = (log_softmax(logits.flatten(0, -2), dim=-1) for logits in (clean, perturbed))
    forward = kl_div(q, p, reduction="batchmean", log_target=True)
    return forward + kl_div(p, q, reduction="batchmean", log_target=True)
