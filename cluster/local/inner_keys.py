"""Keys for what goes on inside SeaweedFS, so that only its S3 port, with credentials, is of use.

Without them its inner HTTP ports read, write and delete for everybody on the machine, and answer
web pages of any origin; its gRPC ports list what is there. With them the former want a token signed
with a key that only this process has, and the latter a certificate that only this user can read.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cluster.local.processes import write_private

FILE = "inner.pem"
_SIGNING = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
_PARTS = ("CLIENT", "MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "MQ")
_NO_ORIGIN = "http://none.invalid"
"""An empty list of origins would mean all."""
_YEARS = timedelta(days=3653)


def made(root: Path) -> dict[str, str]:
    """Put a new certificate, its own authority, into `root`; the variables that have SeaweedFS use
    it, and new signing keys."""
    write_private(root / FILE, _certificate())
    file = str(root / FILE)
    signing = {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in _SIGNING}
    pairs = {f"WEED_GRPC_{part}_{half}": file for part in _PARTS for half in ("CERT", "KEY")}
    origins = {"WEED_CORS_ALLOWED_ORIGINS_VALUES": _NO_ORIGIN}
    return signing | pairs | {"WEED_GRPC_CA": file} | origins


def _certificate() -> bytes:
    # imported here: commands that find the server running need none of it
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sweepstakes")])
    here = x509.SubjectAlternativeName(
        [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # a clock that is set back must not end it
        .not_valid_after(now + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + private
