"""What a provider does: it turns a cluster profile into the files that create a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.profile import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmittedSweep:
    """A sweep to run as a job."""

    name: str
    files: Mapping[str, str]
    """Path -> contents of the sweep file and the files that it names. Paths are relative to the
    working directory of the command."""
    path: str
    """Path of the sweep file, one of `files`."""
    variables: Mapping[str, str]
    """Environment variables that paths in the sweep file contain; no secrets."""


class Provider(ABC):
    """A kind of cluster, such as Kubernetes.

    A package adds one as an entry point of the group `sweepstakes.providers`, which names an
    instance. Its settings in a profile are `providers.NAME`, a mapping that it checks itself.
    """

    section: str
    """Key of its settings in a profile, such as `kubernetes`."""
    ships_store_policy: bool = False
    """Whether the store's policy is written into the same folder. It must not be where a tool
    applies every file of the folder."""

    @abstractmethod
    def configured(self, profile: Profile) -> bool:
        """Return whether the profile has settings for this provider."""

    @abstractmethod
    def render(self, profile: Profile, sweep: SubmittedSweep | None) -> dict[str, str]:
        """Return the text of the files by name. With a sweep, the files also run it as a job, if
        the provider can. Raises ProfileError for a profile that it cannot use."""

    @abstractmethod
    def next_steps(
        self, profile: Profile, folder: Path, sweep_file: Path | None, sweep: SubmittedSweep | None
    ) -> dict[str, str]:
        """Return the commands to continue with after the files are in `folder`: label -> command.
        `sweep_file` is the sweep's path on this machine."""

    def tracking_uri(self, profile: Profile) -> str:
        """Return the address of the MLflow server that the files create; empty if they create
        none."""
        return ""
