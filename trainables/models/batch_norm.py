"""Batch normalization that computes in float32, for networks in bfloat16.

DeepSpeed's bf16 mode rounds the weights of `nn.BatchNorm2d` to bfloat16 and keeps its running
statistics in float32. On CPU torch has no kernel for that mixture. Statistics in bfloat16 would
lose most of each update: a running mean with momentum 0.1 stalls within 8 bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import batch_norm


class _Float32BatchNorm(nn.modules.batchnorm._BatchNorm):
    """`forward` of torch's class with weight, bias and statistics in float32. The output has the
    input's dtype. With float32 weights it gives the bits of torch's class."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        tracked = not self.training or self.track_running_stats
        return batch_norm(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            None if self.weight is None else self.weight.float(),
            None if self.bias is None else self.bias.float(),
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )


class Float32BatchNorm1d(_Float32BatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` in float32."""


class Float32BatchNorm2d(_Float32BatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` in float32."""


class Float32BatchNorm3d(_Float32BatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` in float32."""


_FLOAT32: dict[type[nn.Module], Any] = {
    nn.BatchNorm1d: Float32BatchNorm1d,
    nn.BatchNorm2d: Float32BatchNorm2d,
    nn.BatchNorm3d: Float32BatchNorm3d,
}


def use_float32_batch_norm(net: nn.Module) -> None:
    """Let torch's batch normalizations in `net`, and those of subclasses, compute in float32.

    Modules, parameters, buffers and their names stay the same objects: only the class changes. A
    subclass keeps its own `forward`, in which `super().forward` computes in float32.
    """
    for module in net.modules():
        kind: Any = type(module)
        module.__class__ = _float32_class(kind)


@cache
def _float32_class(kind: Any) -> Any:
    for base, float32 in _FLOAT32.items():
        if kind is base:
            return float32
        if issubclass(kind, base) and not issubclass(kind, float32):
            # Its `super()` finds the second class before torch's.
            return type(kind.__name__, (kind, float32), {"__module__": kind.__module__})
    return kind
