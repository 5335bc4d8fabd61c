"""Credentials: the environment variables that hold them, and redacting them from output."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Environment variables from which boto3 reads credentials."""

SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|ACCESS_KEY|API_?KEY|PRIVATE_?KEY", re.I)
"""Names of environment variables whose values must not be shown or stored."""

REDACTED = "[hidden]"
_MIN_LENGTH = 8
"""Characters. Shorter values (`true`, a port) are not credentials, and redacting them would hide
common words."""
_CREDENTIAL_PATTERNS = (
    re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"),  # http://user:password@host
    re.compile(r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # AWS access key IDs
    re.compile(r"(X-Amz-(?:Signature|Security-Token)=)[^&\s]+", re.I),
    re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?)[^\r\n'\"]+", re.I),
    re.compile(r"(bearer )[\w.~+/=-]{8,}", re.I),
)
"""Patterns of text that is a credential by its form. The first group is not redacted."""


def aws_credentials() -> dict[str, str]:
    """Return the `AWS_VARIABLES` that are set in this process."""
    return {name: os.environ[name] for name in AWS_VARIABLES if name in os.environ}


def redact_secrets(text: str) -> str:
    """Return `text` without the values of this process's secret variables and without anything
    that has the form of a credential."""
    return redact(text, secret_values(os.environ))


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Return the values to redact, the longest first, so that none is left in part."""
    values = {
        value.strip()
        for name, value in environment.items()
        if SECRET_NAME.search(name) and len(value.strip()) >= _MIN_LENGTH
    }
    return sorted(values, key=len, reverse=True)


def redact(text: str, secrets: list[str]) -> str:
    """Return `text` without `secrets` and without anything that has the form of a credential."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    for pattern in _CREDENTIAL_PATTERNS:
        text = pattern.sub(rf"\g<1>{REDACTED}", text)
    return text
