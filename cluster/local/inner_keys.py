"""Keys for SeaweedFS's internal ports, so that only its S3 port, with credentials, is usable.

Without keys, any user of the machine can read, write and delete through the internal HTTP ports,
which also answer web pages of any origin, and can list data through the gRPC ports. With keys, the
HTTP ports require a token signed with a key that only this process has, and the gRPC ports a
certificate that only this user can read.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cluster.local.processes import write_private

_CERTIFICATE_FILE = "inner.pem"
_SIGNING_KEYS = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
_COMPONENTS = ("CLIENT", "MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "MQ")
_NO_ORIGIN = "http://none.invalid"
"""An empty list of origins would allow all."""
_VALIDITY = timedelta(days=3653)


def create_keys(root: Path) -> dict[str, str]:
    """Write a new self-signed certificate into `root`. Return the environment variables that make
    SeaweedFS use it, and that set new signing keys."""
    write_private(root / _CERTIFICATE_FILE, _certificate())
    file = str(root / _CERTIFICATE_FILE)
    signing = {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in _SIGNING_KEYS}
    pairs = {f"WEED_GRPC_{part}_{half}": file for part in _COMPONENTS for half in ("CERT", "KEY")}
    origins = {"WEED_CORS_ALLOWED_ORIGINS_VALUES": _NO_ORIGIN}
    return signing | pairs | {"WEED_GRPC_CA": file} | origins


def _certificate() -> bytes:
    # Imported here, because commands that find the server running do not need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sweepstakes")])
    localhost = x509.SubjectAlternativeName(
        [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # stay valid if the clock is set back
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(localhost, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + private
