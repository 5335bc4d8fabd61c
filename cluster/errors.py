"""Errors of the services and the clusters that a sweep runs on."""


class ServiceError(Exception):
    """A local server, or the job server of a cluster, cannot be started, reached or stopped. The
    message is one line."""


class ProfileError(Exception):
    """A cluster profile does not fit the provider that files are rendered for. The message is one
    line that names the key."""
