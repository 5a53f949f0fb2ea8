"""The shim's way to failpoints: loads the real module only where a test has armed one.

Knows nothing of what the names mean; without it every shim would carry pathlib for nothing.
"""

import os

if "RAYFOLD_FAILPOINTS" in os.environ:
    from events.failpoints import failpoint as failpoint
else:

    def failpoint(name: str) -> None:
        """Nothing is armed."""
