"""What an operator decides about a log: where its archive is, how long events stay hot, what etcd may hold.

Values only; knows nothing of who keeps to them.
"""

import msgspec

from events.log.archive.archiver import RETAIN_S, ArchivePolicy
from events.log.archive.keeper import policy_for
from events.log.archive.space import Budget
from events.log.blobs import ArchiveSettings
from events.log.embedded import QUOTA_BYTES


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`quota_bytes` is etcd's own quota (`--quota-backend-bytes`), which it tells nobody."""

    archive: ArchiveSettings
    retain_s: float = RETAIN_S
    quota_bytes: int = QUOTA_BYTES

    @property
    def budget(self) -> Budget:
        return Budget(quota_bytes=self.quota_bytes)

    @property
    def policy(self) -> ArchivePolicy:
        return policy_for(self.quota_bytes, self.retain_s)
