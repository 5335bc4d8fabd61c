"""What can go wrong with the services and the clusters that a sweep runs on."""


class ServiceError(Exception):
    """A local service cannot be started, reached or stopped; one line that names its log."""


class ProfileError(Exception):
    """A cluster's profile lacks what one form of manifests needs; one line that names the key."""
