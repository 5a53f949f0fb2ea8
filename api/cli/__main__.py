"""`python -m api.cli`: the same as `rayfold`.

Knows nothing but where `main` is.
"""

import sys

from api.cli.main import main

sys.exit(main())
