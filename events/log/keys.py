"""The log's key layout in etcd, the one place that spells keys.

Knows names only; nothing of transactions or of what the values hold.
"""

LAYOUT_FORMAT = 1
HASH_NAME = "xxh64"


class Keys:
    """Keys under `/{namespace}/`. Partition numbers are two digits or more; bases are 16 hex digits, so they sort."""

    def __init__(self, namespace: str) -> None:
        self.root = f"/{namespace}/"
        self.layout = f"{self.root}layout"
        self.restore = f"{self.root}restore"
        self.partitions = f"{self.root}p/"
        self.compaction = f"{self.root}compaction"

    def _partition(self, partition: int) -> str:
        return f"{self.partitions}{partition:02d}/"

    def epoch(self, partition: int) -> str:
        """{epoch, claim_id, owner}: the fence. Only grows, never leased."""
        return f"{self._partition(partition)}epoch"

    def own(self, partition: int) -> str:
        """The owner record, on its lease: discovery only."""
        return f"{self._partition(partition)}own"

    def batch(self, partition: int, base: int) -> str:
        """One record batch, created once."""
        return f"{self._partition(partition)}b/{base:016x}"

    def tail_hint(self, partition: int) -> str:
        """A recent base: a hint, never the truth."""
        return f"{self._partition(partition)}tail_hint"

    def low(self, partition: int) -> str:
        """{first_hot, archived_through}; written by the archiver."""
        return f"{self._partition(partition)}low"

    def segment(self, partition: int, base: int) -> str:
        """Manifest of an archived segment."""
        return f"{self._partition(partition)}seg/{base:016x}"

    def snapshot(self, partition: int) -> str:
        """Where the partition's newest snapshot is, and its offset."""
        return f"{self._partition(partition)}snap"

    def parse_batch(self, key: str) -> tuple[int, int] | None:
        """(partition, base) if `key` is a batch's, else None."""
        partition, _, rest = key.removeprefix(self.partitions).partition("/")
        kind, _, base = rest.partition("/")
        if kind != "b" or not key.startswith(self.partitions):
            return None
        return int(partition), int(base, 16)
