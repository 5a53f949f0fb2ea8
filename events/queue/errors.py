"""Every error the task queue raises itself, one hierarchy. What etcd does not answer stays a `LogUnavailable`.

Knows nothing of etcd.
"""


class QueueError(Exception):
    """Base of everything the queue raises on purpose."""


class InvalidTask(QueueError):
    """A name, a size or a number that no task may have. Nothing was published; repeating it fails again."""


class QueueFull(QueueError):
    """The topic holds as many tasks as it may. Nothing was published; let consumers catch up, then publish again."""
