"""The embedded etcd's certificates: an authority, a server and a client, made at first start and renewed in time.

Knows files and X.509; nothing of etcd. Keys never leave the directory, which only its owner can enter.
"""

import datetime
import ipaddress
import os
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397
RENEW_DAYS_BEFORE = 60
_HOST_NAMES = ("localhost",)
_ADDRESSES = ("127.0.0.1",)


class Pki(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of PEM files."""

    ca_cert: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


def ensure_pki(directory: Path, now: datetime.datetime | None = None) -> Pki:
    """Make what is missing, unusable, about to expire, or made for other names; keep the rest. Blocking."""
    now = now or datetime.datetime.now(datetime.UTC)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    ca = _load(directory, "ca")
    if ca is None or not _lasts(ca[0], now):
        ca = _make_authority(directory, now)
    for name in ("server", "client"):
        leaf = _load(directory, name)
        if leaf is None or not _lasts(leaf[0], now) or not _is_good_leaf(leaf[0], ca[0]):
            _make_leaf(directory, name, ca, now)
    return Pki(
        ca_cert=directory / "ca.crt",
        server_cert=directory / "server.crt",
        server_key=directory / "server.key",
        client_cert=directory / "client.crt",
        client_key=directory / "client.key",
    )


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _load(directory: Path, name: str) -> _Pair | None:
    """The pair if both files are there, readable, and belong together."""
    try:
        cert = x509.load_pem_x509_certificate((directory / f"{name}.crt").read_bytes())
        key = serialization.load_pem_private_key((directory / f"{name}.key").read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        return None
    return cert, key


def _lasts(cert: x509.Certificate, now: datetime.datetime) -> bool:
    return cert.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS_BEFORE)


def _is_good_leaf(cert: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(ca)
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return names == _alternative_names()


def _alternative_names() -> x509.SubjectAlternativeName:
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in _ADDRESSES]
    return x509.SubjectAlternativeName([*(x509.DNSName(name) for name in _HOST_NAMES), *addresses])


def _make_authority(directory: Path, now: datetime.datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rayfold embedded etcd authority")])
    builder = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    cert = builder.sign(key, hashes.SHA256())
    _save(directory, "ca", cert, key)
    return cert, key


def _make_leaf(directory: Path, name: str, ca: _Pair, now: datetime.datetime) -> None:
    ca_cert, ca_key = ca
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rayfold {name}")])
    # etcd is a client of itself and of its peers with its server certificate, so that one needs both usages.
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if name == "server":
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        _builder(subject, ca_cert.subject, key, now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        # RFC 5280 asks for it, and so does Python from 3.13 on.
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_alternative_names(), critical=False)
    )
    _save(directory, name, builder.sign(ca_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back: clocks of processes on one machine may be set while they run.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _save(directory: Path, name: str, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # A crash between the two leaves a pair that does not belong together, which `_load` finds.
    _write(directory / f"{name}.key", encoded)
    _write(directory / f"{name}.crt", cert.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, content: bytes) -> None:
    """Replace the file; it is 0600 before it holds anything."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
