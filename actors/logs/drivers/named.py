"""Makes the driver that a URL names: `syslog://`, `syslog+tls://`, `elasticsearch+https://`, `loki+https://`, `https://`."""

from yarl import URL

from actors.logs.drivers.http import ElasticsearchDriver, HttpDriver, LokiDriver
from actors.logs.drivers.port import BadDriver, Driver, Origin
from actors.logs.drivers.syslog import SyslogDriver

_SYSLOG_PORT, _SYSLOG_TLS_PORT = 601, 6514
_HTTP = {"": HttpDriver, "elasticsearch": ElasticsearchDriver, "loki": LokiDriver}


def driver_for(text: str, origin: Origin) -> Driver:
    """The driver. Raises BadDriver, whose message does not hold what the URL may hold in secrets."""
    try:
        url = URL(text)
        host, port = url.host, url.explicit_port
    except ValueError as error:
        raise BadDriver("expected a URL for a log drain, found none") from error
    if not host:
        raise BadDriver("expected a URL with a host for a log drain, found none")
    if url.scheme == "syslog":
        return SyslogDriver(host, port or _SYSLOG_PORT, origin)
    if url.scheme == "syslog+tls":
        return SyslogDriver(host, port or _SYSLOG_TLS_PORT, origin, tls=True)
    kind, plus, scheme = url.scheme.partition("+")
    kind, scheme = (kind, scheme) if plus else ("", kind)
    if kind in _HTTP and (scheme == "https" or (scheme == "http" and kind)):
        return _HTTP[kind](url.with_scheme(scheme), origin)
    raise BadDriver(
        f"expected syslog, syslog+tls, elasticsearch+https, loki+https or https for a log drain, found {url.scheme!r}"
    )
