"""Starts the shim by file name (`python -I -S .../actors/runtime/shim/__main__.py DIR`), with no site packages at all.

Knows nothing but where the house's packages lie, which isolated mode has taken off the path.
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH100, PTH120

import sys
from os.path import abspath, dirname


def _run() -> int:
    sys.path.append(dirname(dirname(dirname(dirname(abspath(__file__))))))
    from actors.runtime.shim.daemon import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_run())
