"""The ciphers: a data key seals and opens a team's values, a master key wraps and unwraps data keys. Pure.

Knows bytes and names only; not where keys are kept nor who asks.
"""

import base64
import binascii
import hashlib
import hmac
import secrets

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from events.secrets.errors import MasterKeyUnusable, SealBroken
from events.secrets.sealed import Sealed

KEY_BYTES = 32  # AES-256
NONCE_BYTES = 12  # what GCM takes without hashing (NIST SP 800-38D)
_ID_DIGITS = 16
_FINGERPRINT_DIGITS = 16


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sealed value stands and alone can be opened: a team's stream, and the name of a setting in it."""

    team: str
    stream: str
    name: str


def new_id() -> str:
    """A random id of 16 hex digits."""
    return secrets.token_hex(_ID_DIGITS // 2)


def new_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(KEY_BYTES)


def _derive(key: bytes, purpose: str) -> bytes:
    """A key of its own for every use: one HMAC is HKDF's expansion for 32 bytes of a key that is uniform already."""
    return hmac.digest(key, f"rayfold {purpose} 1".encode() + b"\x01", "sha256")


class DataKey:
    """A team's key, in clear, in memory. Its repr shows the id only."""

    def __init__(self, *, key_id: str, key: bytes) -> None:
        self.key_id = key_id
        self._cipher = AESGCM(_derive(key, "sealing"))
        self._nonces = _derive(key, "nonces")
        self._fingerprints = _derive(key, "fingerprints")

    def __repr__(self) -> str:
        return f"DataKey({self.key_id})"

    def fingerprint(self, value: str) -> str:
        """16 hex digits, the same for the same value; nobody without the key can try values against it."""
        return hmac.digest(self._fingerprints, value.encode(), "sha256").hex()[:_FINGERPRINT_DIGITS]

    def seal(self, value: str, place: Place) -> str:
        """The sealed text of `value` at `place`; the same text for the same value at the same place.

        Sealing anew what stands there already therefore changes nothing, which is what keeps it from being a release.
        """
        fingerprint = self.fingerprint(value)
        bound = self._bound(place, fingerprint)
        # The nonce is a keyed hash of place and value: it repeats for equal ones only, and then so does the output.
        nonce = hmac.digest(self._nonces, bound + b"\0" + value.encode(), "sha256")[:NONCE_BYTES]
        body = base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, value.encode(), bound)).decode()
        return Sealed(team=place.team, key_id=self.key_id, fingerprint=fingerprint, body=body.rstrip("=")).text()

    def open(self, sealed: Sealed, place: Place) -> str:
        """The value. Raises SealBroken when it was not sealed at `place` with this key, or was changed since."""
        try:
            raw = base64.urlsafe_b64decode(sealed.body + "=" * (-len(sealed.body) % 4))
            bound = self._bound(place, sealed.fingerprint)
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound).decode()
        except (InvalidTag, ValueError):
            raise SealBroken(
                f"{place.name}: expected a value sealed for this setting of {place.stream}, found one that was changed "
                f"or copied from elsewhere; set it again: rayfold config set --secret {place.name}=…"
            ) from None

    def _bound(self, place: Place, fingerprint: str) -> bytes:
        """Associated data: none of its parts can hold the NUL between them."""
        parts = ("rayfold sealed 1", place.team, self.key_id, fingerprint, place.stream, place.name)
        return "\0".join(parts).encode()


class MasterKey:
    """The key that wraps data keys. Its id is a hash of it, so that a wrapped key says which one it needs."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(_derive(key, "wrapping"))
        self.id = hashlib.sha256(_derive(key, "naming")).hexdigest()[:_ID_DIGITS]

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    @classmethod
    def from_text(cls, text: str) -> "MasterKey":
        """From base64 of 32 bytes. Raises MasterKeyUnusable without repeating the text."""
        try:
            key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise MasterKeyUnusable(
                f"expected a master key of {KEY_BYTES} bytes in base64, found something else; make one with: "
                "openssl rand -base64 32"
            )
        return cls(key)

    def to_text(self) -> str:
        """Base64, for the key's own file and for nothing else."""
        return base64.b64encode(self._key).decode()

    def wrap(self, key: bytes, team: str, key_id: str) -> bytes:
        """A data key as it may be stored: nonce and cipher's output."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, self._wrapping(team, key_id))

    def unwrap(self, wrapped: bytes, team: str, key_id: str) -> bytes:
        """The data key. Raises SealBroken when it was not wrapped for this team and id with this master key."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], self._wrapping(team, key_id))
        except (InvalidTag, ValueError):
            raise SealBroken(
                f"expected the wrapped key {key_id} of team {team} as it was stored, found it changed; restore it from "
                "a backup"
            ) from None

    def _wrapping(self, team: str, key_id: str) -> bytes:
        return "\0".join(("rayfold wrapped 1", team, key_id, self.id)).encode()
