"""The addresses of servers and ticket stores: what they look like, and advice for what is not one.

Cluster profiles, sweep files and the store itself read addresses. This module is the only one of
the package that all of `orchestrator` may import, since planning reads them too. It imports nothing
heavy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

SERVER_PATTERN = r"https?://([\w.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
"""A server's address. It must not contain a user and password, since addresses are shown."""


@dataclass(frozen=True, slots=True)
class AddressForm:
    """What an address looks like."""

    pattern: str
    """Regular expression that matches the whole address."""
    advice: str
    """What to use instead of an address of another form, for error messages."""

    def matches(self, address: str) -> bool:
        return re.fullmatch(self.pattern, address) is not None

    def check(self, address: str) -> str:
        """Return the address. Raises PydanticCustomError, a ValueError, if it has another form."""
        if not self.matches(address):
            raise PydanticCustomError("address", "{advice}", {"advice": self.advice})
        return address

    @property
    def schema(self) -> dict[str, str]:
        """The form as keywords of a JSON schema."""
        return {"pattern": f"^{self.pattern}$"}


STORE = AddressForm(
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?",
    "use s3://bucket or s3://bucket/prefix; the name of a bucket has 3 to 63 characters from a-z,"
    " 0-9, `-` and `.`, and begins and ends with a letter or a digit",
)
ENDPOINT = AddressForm(
    f"({SERVER_PATTERN}/?)?",
    "use an address such as http://127.0.0.1:8333, without user and password, or leave it out for"
    " AWS",
)
TRACKING = AddressForm(
    f"(local|none|{SERVER_PATTERN}(/[^@]*)?)",
    "use `local`, `none`, or the address of a server such as http://127.0.0.1:5000, without user"
    " and password",
)

StoreUrl: TypeAlias = Annotated[
    str, AfterValidator(STORE.check), Field(json_schema_extra={**STORE.schema})
]
"""A bucket with an optional prefix."""
Endpoint: TypeAlias = Annotated[
    str, AfterValidator(ENDPOINT.check), Field(json_schema_extra={**ENDPOINT.schema})
]
"""The address of an S3 server; empty for AWS."""
Tracking: TypeAlias = Annotated[
    str, AfterValidator(TRACKING.check), Field(json_schema_extra={**TRACKING.schema})
]
"""The address of an MLflow server, `local` or `none`."""


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Split the address of a store into its bucket and its prefix, without slashes at its ends."""
    parts = urlsplit(url)
    return parts.netloc, parts.path.strip("/")
