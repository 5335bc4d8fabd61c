"""The providers that a cluster profile can be rendered for.

They are the built-in ones, and those of installed packages (entry points of the group
`sweepstakes.providers`)."""

from __future__ import annotations

from cluster.providers.aws import AmazonEC2
from cluster.providers.base import Provider
from cluster.providers.kuberay.manifests import KubeRay
from trainables.registry import Registry

PROVIDERS: Registry[Provider] = Registry(
    Provider,  # type: ignore[type-abstract]
    group="sweepstakes.providers",
    attribute="PROVIDER",
    builtin={"kuberay": KubeRay(), "aws": AmazonEC2()},
)
