"""Pairs of ssh keys: made anew, or read from what somebody brings.

Knows keys as texts; nothing of who keeps them. No message repeats a private key.
"""

import base64
import hashlib

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from actors.builder.errors import SourceError


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """`private`: a file's text, in clear; `public`: the line for an `authorized_keys`, without a comment."""

    private: str
    public: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def make_pair() -> KeyPair:
    """A new ed25519 pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyPair(private=private, public=_public(key))


def read_pair(text: str) -> KeyPair:
    """The pair of a private key's file, in OpenSSH's or in PEM form. Raises `SourceError`."""
    private = text.strip().replace("\r\n", "\n") + "\n"
    load = load_ssh_private_key if "BEGIN OPENSSH" in private else load_pem_private_key
    try:
        key = load(private.encode(), None)
        return KeyPair(private=private, public=_public(key))
    except TypeError:
        why = "one that is locked by a passphrase, which a build cannot type: make one without (ssh-keygen -N '')"
    except (ValueError, UnsupportedAlgorithm, AttributeError):
        why = "something else; a file like ~/.ssh/id_ed25519 holds one, its .pub does not"
    raise SourceError(f"Expected a private ssh key, found {why}.") from None


def fingerprint(public: str) -> str:
    """As ssh-keygen -l and git hosts show it: SHA256 and 43 characters."""
    digest = hashlib.sha256(base64.b64decode(public.split(" ")[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _public(key: object) -> str:
    """Raises ValueError, UnsupportedAlgorithm or AttributeError for a key that ssh has no form for."""
    public = key.public_key()  # type: ignore[attr-defined] # each kind of private key has it, without a common class
    line: bytes = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line.decode()
