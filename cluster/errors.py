"""What can go wrong with the services that a sweep runs beside."""


class ServiceError(Exception):
    """A local service cannot be started, reached or stopped; one line that names its log."""
