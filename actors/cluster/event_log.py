"""The platform's event log as its actors open it: with its archive, and with the gate that its writers keep to.

Knows the settings; nothing of what is read or written.
"""

from actors.cluster.settings import PlatformSettings
from events.log.blobs import open_blobs
from events.log.etcd_log import EtcdEventLog
from events.log.pace import Pace

COMMIT_SECONDS = 0.02
COMMIT_BURST = 16
"""Under load a process's transactions begin so far apart: each costs the machine some 3 ms of CPU whatever it carries,
etcd's and that of everyone who watches the log (docs/decisions/0155, 0158). What seldom comes never waits."""


def make_event_log(settings: PlatformSettings) -> EtcdEventLog:
    """The log, to be opened. Raises ValueError where the archive's settings are wrong."""
    log = settings.log_settings
    return EtcdEventLog(
        settings.etcd,
        partitions=settings.partitions,
        blobs=open_blobs(log.archive),
        budget=log.budget,
        pace=Pace(seconds=COMMIT_SECONDS, burst=COMMIT_BURST),
    )
