"""Read by the python of a container that has the authority's key: a certificate for the outlet argv[1] that has expired, as JSON."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

authority = x509.load_pem_x509_certificate(Path("/pki/ca.pem").read_bytes())
signer = serialization.load_pem_private_key(Path("/pki/private/ca.key").read_bytes(), None)
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name(
    [
        x509.NameAttribute(NameOID.COMMON_NAME, sys.argv[1]),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "outlet"),
    ]
)
now = datetime.now(UTC)
certificate = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(authority.subject)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - timedelta(days=2))
    .not_valid_after(now - timedelta(days=1))
    .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
)
pem = serialization.Encoding.PEM
private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
print(
    json.dumps(
        {
            "ca.pem": authority.public_bytes(pem).decode(),
            "cert.pem": certificate.public_bytes(pem).decode(),
            "key.pem": private,
        }
    )
)
