"""The pieces that task heads share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from trainables.models.base import Encoded
from trainables.tasks.base import Batch


class PooledHead(nn.Sequential):
    """Layers over the pooled output; their parameters are named by their place, as published.

    The first layer's width says how many sequences of an example are read side by side: pooled
    outputs (2B, H) go as (B, 2H) into one that takes 2H.
    """

    def forward(self, encoded: Encoded, batch: Batch) -> Tensor:  # type: ignore[override]
        width = self[0].in_features
        assert isinstance(width, int)
        out = encoded.pooled.reshape(-1, width)
        for layer in self:
            out = layer(out)
        return out


# All weights are drawn as torch draws them: at width 768 with standard deviation 0.021, where the
# official code has 0.02, and in narrow networks wider, as they need.
def classifier(hidden: int, wide: int, classes: int) -> PooledHead:
    """UNITER's answer head (its code, `model/vqa.py`), and LXMERT's: Linear, GELU, LN, Linear."""
    return PooledHead(
        nn.Linear(hidden, wide), nn.GELU(), nn.LayerNorm(wide, eps=1e-12), nn.Linear(wide, classes)
    )


def norm_first_classifier(hidden: int, wide: int, classes: int) -> PooledHead:
    """ViLT's (its code, `vilt_module.py`): Linear, LN of torch's own eps, GELU, Linear."""
    return PooledHead(
        nn.Linear(hidden, wide), nn.LayerNorm(wide), nn.GELU(), nn.Linear(wide, classes)
    )


CLASSIFIERS = {
    "uniter": classifier,
    "lxmert": classifier,
    "vilt": norm_first_classifier,
}
"""The head by which each architecture's authors answer questions."""


def symmetric_kl(clean: Tensor, perturbed: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p) of the softmax over the last axis, mean over rows, in nats (VILLA,
    equation 6)."""
    p, q = (log_softmax(logits.flatten(0, -2), dim=-1) for logits in (clean, perturbed))
    forward = kl_div(q, p, reduction="batchmean", log_target=True)
    return forward + kl_div(p, q, reduction="batchmean", log_target=True)
