"""Attention in one fused kernel, and the post-LN layer around it.

transformers computes LXMERT's and ViLT's attention in separate steps only. The modules here keep
its parameters and their names, and replace the computation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """softmax(QK' / sqrt(d)) V over several heads, with the parameters of the module it replaces.

    `dropout` acts on the attention probabilities.
    """

    def __init__(self, replaced: Any) -> None:
        super().__init__()
        self.query: nn.Linear = replaced.query
        self.key: nn.Linear = replaced.key
        self.value: nn.Linear = replaced.value
        self.heads: int = replaced.num_attention_heads
        self.dropout: float = replaced.dropout.p

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from `hidden` (B, Q, H) to `context` (B, K, H) -> (B, Q, H). `attention_mask`
        makes the `mask`."""
        query = _split_heads(self.query(hidden), self.heads)
        key = _split_heads(self.key(context), self.heads)
        value = _split_heads(self.value(context), self.heads)
        dropout = self.dropout if self.training else 0.0
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return out.transpose(1, 2).flatten(2)


def fuse_attention(model: nn.Module, module_class: type[nn.Module]) -> None:
    """Replace each module of class `module_class` inside `model` by an `Attention`."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, module_class):
                setattr(parent, name, Attention(child))


def attention_mask(*masks: Tensor) -> Tensor:
    """Concatenate masks (B, N_i) bool -> (B, 1, 1, sum N_i), True at positions to attend to."""
    return torch.cat(masks, dim=1)[:, None, None, :]


def post_ln_layer(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Run one layer of BERT, or of LXMERT's language or object encoder: (B, N, H) -> (B, N, H)."""
    attended = layer.attention.output(layer.attention.self(hidden, hidden, mask), hidden)
    out: Tensor = layer.output(layer.intermediate(attended), attended)
    return out


def _split_heads(hidden: Tensor, heads: int) -> Tensor:
    """(B, N, H) -> (B, heads, N, H / heads)"""
    return hidden.view(*hidden.shape[:2], heads, -1).transpose(1, 2)
