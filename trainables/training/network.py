"""A backbone and its task head as one module, and its float32 state by full name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from trainables.errors import CheckpointError


class Network(nn.Module):
    """f(x; theta, phi): `backbone.*` is theta, which a ticket can mask, and `head.*` is phi."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return logits in float32, whatever the precision of the weights."""
        logits: Tensor = self.head(self.backbone(batch), batch)
        return logits.float()


def load_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` (state dict names -> tensors) into `net`. Raises CheckpointError unless all
    names and shapes agree."""
    expected = net.state_dict()
    wrong = sorted(expected.keys() ^ weights.keys()) or sorted(
        name for name in expected if expected[name].shape != weights[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"start weights: {wrong[0]} (and {len(wrong) - 1} more) differ from the model's in "
            "name or shape; start from weights of this model, size and task"
        )
    # Copy, never assign: in BERT-Tickets' LT_pretrain.py the "rewound" weights are aliases of the
    # network's, so training changes them.
    net.load_state_dict(dict(weights))
