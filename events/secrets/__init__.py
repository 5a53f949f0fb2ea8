"""Values marked secret: how they stand in the log sealed, and how they are shown.

Must not know which aggregate holds a value, nor who carries it to an application.
"""

from events.secrets.sealed import MASK, Sealed, is_sealed, mask, shown

__all__ = ["MASK", "Sealed", "is_sealed", "mask", "shown"]
