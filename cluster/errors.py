"""What can go wrong with the services and the clusters that a sweep runs on."""


class ServiceError(Exception):
    """A service, ours or a cluster's, cannot be started, reached or stopped; one line."""


class ProfileError(Exception):
    """A cluster's profile lacks what one form of manifests needs; one line that names the key."""
