"""Every error that sealing and opening raise on purpose, each saying what to do.

No message ever holds a clear value or key material.
"""


class SecretError(Exception):
    """Base of what goes wrong with secrets. Trying again without changing something fails again."""


class MasterKeyUnusable(SecretError):
    """The master key file is absent, readable by others, malformed, or not the one this platform's keys need."""


class KeyDestroyed(SecretError):
    """The data key that sealed a value is gone for good, and with it the value. Set the value anew."""


class SealBroken(SecretError):
    """A sealed text cannot be opened where it stands: it was changed, or copied from another place."""
