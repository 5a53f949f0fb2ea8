"""A bit that flips in a batch of a log in memory, and flips back."""

from events.log.memory import MemoryStore


def flip(store: MemoryStore, partition: int, base: int) -> None:
    """Flip one bit of the body of the batch that begins at `base`; its header stays whole."""
    batches = store.partitions[partition].batches
    value = batches[base].value
    batches[base] = batches[base]._replace(value=value[:-9] + bytes([value[-9] ^ 1]) + value[-8:])
